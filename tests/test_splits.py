import ast
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from fer_bench import data, splits
from fer_bench.errors import UserError
from fer_bench.twins import groups as twin_groups

PACKAGE = Path(splits.__file__).parent


@pytest.fixture(scope="module")
def twins():
    """Images (140, 48, 48) in 7 classes, of which rows 0-1, 2-3 (mirrored) and 4-5-6 are twins."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (140, 48, 48), dtype=np.uint8)
    images[1], images[3], images[5], images[6] = images[0], images[2][:, ::-1], images[4], images[4][:, ::-1]
    return images, np.arange(140) % 7


def test_parts_are_the_rows_of_the_part(toy):
    for code, name in enumerate(splits.OPEN_PARTS):
        images, labels = splits.part(toy, name)
        np.testing.assert_array_equal(images, toy.images[toy.parts == code])
        np.testing.assert_array_equal(labels, toy.labels[toy.parts == code])
        assert not np.shares_memory(images, toy.images)
    assert splits.counts(toy) == {"Training": 56, "PublicTest": 21, "PrivateTest": 21}


def test_only_open_private_test_hands_out_the_test(toy):
    private = {image.tobytes() for image in toy.images[toy.parts == 2]}
    handed = [image.tobytes() for name in splits.OPEN_PARTS for image in splits.part(toy, name)[0]]
    assert len(private) == 21
    assert private.isdisjoint(handed)
    with pytest.raises(ValueError, match=r"got 'PrivateTest'; PrivateTest is opened by open_private_test"):
        splits.part(toy, "PrivateTest")
    with pytest.raises(ValueError, match="got 'privatetest'"):
        splits.part(toy, "privatetest")


def test_what_fits_and_selects_sees_neither_parts_nor_the_test():
    for path in [p for name in ("augment", "models", "train", "predict", "ensemble", "tune") for p in sources(name)]:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert not {"parts", "open_private_test"} & attributes, path
        assert not {"Faces", "open_private_test"} & (names | imported), path


def sources(module):
    """The files of a module, be it one file or a package."""
    return [path for path in (PACKAGE / f"{module}.py", *(PACKAGE / module).glob("*.py")) if path.exists()]


def test_a_look_says_what_for_and_when(toy):
    images, labels, look = splits.open_private_test(toy, purpose="score", run_id="00ff00ff00ff00ff")
    np.testing.assert_array_equal(images, toy.images[toy.parts == 2])
    np.testing.assert_array_equal(labels, toy.labels[toy.parts == 2])
    assert look["time"].endswith("+00:00")
    assert {key: look[key] for key in ("part", "purpose", "run_id")} == {
        "part": "PrivateTest",
        "purpose": "score",
        "run_id": "00ff00ff00ff00ff",
    }


def test_missing_and_unlabelled_parts_are_explained(toy):
    train = toy.parts == 0
    alone = data.assemble(toy.images[train], toy.labels[train], toy.parts[train], source="train.csv")
    with pytest.raises(UserError, match=r"train.csv: holds no PublicTest rows"):
        splits.part(alone, "PublicTest")
    kaggle = replace(toy, labels=np.where(train, toy.labels, -1), source="train.csv + test.csv")
    assert len(splits.part(kaggle, "Training")[1]) == 56
    with pytest.raises(UserError, match=r"21 PublicTest rows carry no labels"):
        splits.part(kaggle, "PublicTest")
    with pytest.raises(UserError, match=r"21 PrivateTest rows carry no labels"):
        splits.open_private_test(kaggle, purpose="score", run_id="0")


def test_the_look_is_kept_before_the_test_part_is_handed_out(toy):
    kept: list[dict[str, str]] = []
    look = splits.open_private_test(toy, purpose="x", run_id="0", note=kept.append)[2]
    assert kept == [look]

    def full(look):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        splits.open_private_test(toy, purpose="x", run_id="0", note=full)


def test_digest_follows_the_rows_of_each_part(toy):
    text = b"split-v1"
    for code, (name, start, stop) in enumerate([("Training", 0, 56), ("PublicTest", 56, 77), ("PrivateTest", 77, 98)]):
        text += f"\n{code} {name} {stop - start}\n".encode()
        text += b"".join(row.to_bytes(8, "little") for row in range(start, stop))
    assert splits.digest(toy) == hashlib.sha256(text).hexdigest()
    moved = toy.parts.copy()
    moved[55] = 1
    assert splits.digest(replace(toy, parts=moved)) != splits.digest(toy)


def test_twins_share_a_group_also_when_mirrored(twins):
    groups = twin_groups(twins[0])
    pairs = [(i, j) for i in range(140) for j in range(i) if groups[i] == groups[j]]
    assert pairs == [(1, 0), (3, 2), (5, 4), (6, 4), (6, 5)]
    assert groups.max() == 135


def test_near_twins_share_a_group_through_others(twins):
    images = twins[0].copy()
    rng = np.random.default_rng(1)
    for row, like, noise in ((20, 8, 8), (30, 20, 8), (40, 9, 120)):  # 8 and 30 are related through 20 alone
        images[row] = np.clip(images[like].astype(int) + rng.normal(0, noise, (48, 48)), 0, 255)
    images[20] = images[20][:, ::-1] // 2 + 30  # mirrored and of less contrast
    images[50] = images[60] = 7  # constant
    groups = twin_groups(images)
    new = [(i, j) for i in range(140) for j in range(i) if groups[i] == groups[j] and i >= 8]
    assert new == [(20, 8), (30, 8), (30, 20), (60, 50)]
    assert [np.flatnonzero(groups == group)[0] for group in range(groups.max() + 1)] == sorted(
        {int(np.flatnonzero(groups == group)[0]) for group in groups}
    )


def test_a_kept_search_is_taken_and_a_damaged_one_is_made_again(twins, tmp_path, monkeypatch):
    images = twins[0]
    found = twin_groups(images, tmp_path)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    monkeypatch.setattr("fer_bench.twins.near", lambda images: pytest.fail("searched again"))
    np.testing.assert_array_equal(twin_groups(images, tmp_path), found)
    monkeypatch.undo()
    for damaged in (b"", whole[:-1], bytes([*whole[:200], whole[200] ^ 1, *whole[201:]])):
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(twin_groups(images, tmp_path), found)
        assert kept.read_bytes() == whole


def test_folds_keep_twins_together_and_class_shares(twins):
    images, labels = twins
    groups = twin_groups(images)
    ids = splits.folds(images, labels, 5, seed=1)
    assert sorted(set(ids.tolist())) == [0, 1, 2, 3, 4]
    assert all(len(set(ids[groups == group])) == 1 for group in groups)
    table = np.array([np.bincount(labels[ids == fold], minlength=7) for fold in range(5)])
    grouped = StratifiedGroupKFold(5, shuffle=True, random_state=1).split(images, labels, groups)
    reference = np.array([np.bincount(labels[test], minlength=7) for _, test in grouped])
    assert np.abs(table - 4).max() <= max(2, np.abs(reference - 4).max())
    np.testing.assert_array_equal(ids, splits.folds(images, labels, 5, seed=1))
    assert not np.array_equal(ids, splits.folds(images, labels, 5, seed=2))


def test_holdout_keeps_twins_together_and_class_shares(twins):
    images, labels = twins
    groups = twin_groups(images)
    mask = splits.holdout(images, labels, 0.25, seed=1)
    assert mask.dtype == bool
    assert all(len(set(mask[groups == group])) == 1 for group in groups)
    assert abs(mask.mean() - 0.25) < 0.03
    assert set(np.bincount(labels[mask], minlength=7).tolist()) <= {4, 5, 6, 7}
    np.testing.assert_array_equal(mask, splits.holdout(images, labels, 0.25, seed=1))
    assert not np.array_equal(mask, splits.holdout(images, labels, 0.25, seed=2))


def test_too_few_rows_and_bad_fractions_are_explained(twins):
    images, labels = twins
    with pytest.raises(UserError, match=r"25 folds needs at least 25 different images of every class; class \d"):
        splits.folds(images, labels, 25, seed=0)
    with pytest.raises(UserError, match=r"between 0 and 1; got 1.5"):
        splits.holdout(images, labels, 1.5, seed=0)
