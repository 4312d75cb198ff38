"""Fold runs from a suite to the board, trained for real on a few drawn faces."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_bench import leaderboard, records, splits, toyfaces
from fer_bench.config import load_suite
from fer_bench.data import require_labels
from fer_bench.errors import UserError
from fer_bench.suite import apply, folds, members
from fer_bench.suite.plan import Options, load_faces
from fer_bench.suite.progress import Display
from fer_bench.suite.stages import dry_run, run

LIMIT, K = 70, 3
SUITE = """
suite: tiny
data: toyfaces
seeds: [4]
defaults: {pretrained: false, train: {epochs: 2, batch_size: 32, lr: 1e-3}}
members:
  - {name: mlp, backbone: "baseline:mlp", folds: 3, fold_views: [none]}
ensembles:
  - {name: bag, method: fold-average, members: [mlp], views: [none]}
  - {name: calibrated, fit_on: Training, temperature: after, members: [mlp], views: [none]}
"""
STEMS = ["mlp.s4", "mlp.s4.f0", "mlp.s4.f1", "mlp.s4.f2"]


def go(folder, text=SUITE, should_stop=lambda: False, **more):
    (folder / "tiny.yaml").write_text(text)
    options = Options(**({"runs_dir": folder / "runs", "limit": LIMIT, "device": "cpu"} | more))
    return run(folder / "tiny.yaml", options, Display(quiet=True), should_stop)


def board_of(folder):
    return folder / "runs" / f"tiny-limit{LIMIT}"


def trained(folder):
    found = [record for record in records.load_all(board_of(folder)) if record["kind"] in records.TRAINED]
    return {records.stem_of(record): record for record in found}


@pytest.fixture(scope="module")
def jobs():
    """What the standing suite's runs were fitted to, in their order."""
    return []


@pytest.fixture(scope="module")
def standing(tmp_path_factory, jobs):
    folder = tmp_path_factory.mktemp("folds")
    real = members.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "fit", lambda job, *a, **k: jobs.append(job) or real(job, *a, **k))
        go(folder)
    return folder


@pytest.fixture
def done(standing, tmp_path):
    """A copy of the finished suite, to be changed."""
    return Path(shutil.copytree(standing, tmp_path / "done"))


@pytest.fixture(scope="module")
def faces():
    found = load_faces(load_suite_of(SUITE), Options(limit=LIMIT))
    require_labels(found)
    return found


def load_suite_of(text):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.yaml"
        path.write_text(text)
        return load_suite(path)


def test_each_fold_is_fitted_to_the_rows_that_it_does_not_hold_out(standing, jobs, faces):
    images, labels = splits.part(faces, "Training")
    ids = splits.folds(images, labels, K, 0)
    whole, *others = jobs
    np.testing.assert_array_equal(whole.images, images)
    assert list(trained(standing)) == STEMS
    for index, job in enumerate(others):
        np.testing.assert_array_equal(job.images, images[ids != index])
        np.testing.assert_array_equal(job.labels, labels[ids != index])
        stored = records.arrays(board_of(standing), trained(standing)[f"mlp.s4.f{index}"])
        np.testing.assert_array_equal(stored["Training/rows"], np.flatnonzero(ids == index))
        np.testing.assert_array_equal(stored["Training/labels"], labels[ids == index])
    assert whole.seed == 4
    assert len({job.seed for job in jobs}) == 1 + K  # each draws its own


def test_held_out_rows_are_predicted_by_the_model_that_did_not_see_them(standing, faces):
    images, _ = splits.part(faces, "Training")
    for index in range(K):
        record = trained(standing)[f"mlp.s4.f{index}"]
        stored = records.arrays(board_of(standing), record)
        device = torch.device("cpu")
        again = apply._probabilities(
            record, images[stored["Training/rows"]], board_of(standing), standing / "runs", device, "none"
        )
        np.testing.assert_array_equal(records.as_stored(again), stored["Training/none"])
        assert set(stored) == {"Training/rows"} | {
            f"{part}/{leaf}" for part in ("Training", "PublicTest", "PrivateTest") for leaf in ("labels", "none")
        }


def test_the_average_assembles_the_folds_and_the_board_proves_it(standing):
    bag = records.called(board_of(standing), "bag")
    stored = records.arrays(board_of(standing), bag)
    for record in (found for stem, found in trained(standing).items() if stem != "mlp.s4"):
        fold = records.arrays(board_of(standing), record)
        np.testing.assert_allclose(stored["Training/none"][fold["Training/rows"]], fold["Training/none"], atol=1e-3)
    assert [source["fold"] for source in bag["members"]] == [0, 1, 2]
    assert bag["passes"] == {"none": K}
    assert leaderboard.check(board_of(standing)) == []


def test_the_run_on_all_of_training_is_the_same_with_and_without_folds(done):
    (done / "alone.yaml").write_text(SUITE.split("ensembles:")[0].replace(", folds: 3, fold_views: [none]", ""))
    options = Options(runs_dir=done / "runs", limit=LIMIT, device="cpu")
    rows = dry_run(done / "alone.yaml", options, Display(quiet=True))
    assert [(row["name"], row["state"]) for row in rows] == [("mlp", "done")]


def test_each_fold_run_looks_once_at_the_test_and_not_again_when_skipped(done, monkeypatch):
    looks = [record["looks"] for record in trained(done).values()]
    assert [[look["run_id"] for look in each] for each in looks] == [[r["run_id"]] for r in trained(done).values()]

    def refuse(*args, **words):
        raise AssertionError("PrivateTest was opened")

    monkeypatch.setattr(splits, "open_private_test", refuse)
    monkeypatch.setattr(members, "fit", refuse)
    before = {path: path.stat().st_mtime_ns for path in (board_of(done) / "results").iterdir()}
    go(done)
    assert {path: path.stat().st_mtime_ns for path in (board_of(done) / "results").iterdir()} == before


def test_a_stopped_fold_goes_on_to_the_same_bits(standing, tmp_path):
    asked = itertools.count(1)
    outcome = go(tmp_path, should_stop=lambda: next(asked) > 10)  # in the second epoch of fold 1
    assert outcome.stopped
    assert list(trained(tmp_path)) == STEMS[:2]
    go(tmp_path)
    one, two = ({s: r["predictions"]["sha256"] for s, r in trained(folder).items()} for folder in (tmp_path, standing))
    assert one == two


def test_a_failed_fold_is_a_record_and_what_needs_it_is_withheld(tmp_path, monkeypatch):
    real, count = members.fit, itertools.count()

    def broken(job, *args, **words):
        if next(count) == 2:  # the whole of Training, fold 0, fold 1
            raise RuntimeError("the device went away")
        return real(job, *args, **words)

    monkeypatch.setattr(members, "fit", broken)
    outcome = go(tmp_path)
    assert [(records.stem_of(r), r["kind"]) for r in outcome.failures] == [("mlp.s4.f1", "failure")]
    assert list(outcome.withheld) == ["bag", "calibrated"]
    page = (board_of(tmp_path) / "leaderboard.md").read_text()
    assert "| mlp | 4, fold 1 | infrastructure | RuntimeError: the device went away |" in page
    assert leaderboard.check(board_of(tmp_path)) == []
    assert go(tmp_path).withheld == {}


def test_another_number_of_folds_is_another_setting(done):
    with pytest.raises(UserError, match=r"mlp\.s4\.f0: finished with other settings \(.*fold\.of: 3 -> 2"):
        go(done, SUITE.replace("folds: 3", "folds: 2"))


def test_folds_come_last_and_are_estimated_on_fewer_rows(tmp_path):
    text = SUITE.replace("[4]", "[4, 5]")
    (tmp_path / "tiny.yaml").write_text(text)
    options = Options(runs_dir=tmp_path, limit=LIMIT, device="cpu")
    rows = dry_run(tmp_path / "tiny.yaml", options, Display(quiet=True))
    rows = [row for row in rows if row["kind"] != "ensemble"]
    assert [(row["seed"], row.get("fold")) for row in rows] == [
        (4, None),
        (5, None),
        *((s, f) for s in (4, 5) for f in range(K)),
    ]
    assert rows[2]["seconds"] < rows[0]["seconds"]


def test_too_few_images_of_a_class_are_told_before_training(tmp_path):
    with pytest.raises(UserError, match="a split into 20 folds needs at least 20 different images of every class"):
        go(tmp_path, SUITE.replace("folds: 3", "folds: 20"))
    assert not (tmp_path / "runs").exists()


def test_one_cut_serves_all_and_keeps_twins_together():
    faces = toyfaces.load(seed=3, counts=(56, 21, 21))
    faces.images[1] = faces.images[0][:, ::-1]
    parts = folds.cut(faces, 3)
    held = [fold.held for fold in parts]
    assert sorted(np.concatenate(held).tolist()) == list(range(56))
    assert any({0, 1} <= set(rows.tolist()) for rows in held)
    assert [fold.identity for fold in folds.cut(faces, 3)] == [fold.identity for fold in parts]
    assert len({fold.identity["rows_sha256"] for fold in parts}) == 3
