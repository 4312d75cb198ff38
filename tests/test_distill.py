"""A student of out-of-fold predictions, trained for real on a few drawn faces."""

import hashlib
from typing import Any

import numpy as np
import pytest
from test_folds import LIMIT, SUITE, board_of, go

from fer_bench import records, tune
from fer_bench.errors import UserError
from fer_bench.suite import members
from fer_bench.suite.plan import Options
from fer_bench.suite.progress import Display
from fer_bench.suite.stages import dry_run

STUDENT = """
suite: tiny
data: toyfaces
seeds: [4]
members:
  - name: student
    backbone: "baseline:mlp"
    pretrained: false
    train: {epochs: 1, batch_size: 32, distill: {teacher: %s, weight: 0.4, temperature: 2}}
"""


@pytest.fixture
def folder(tmp_path, drawn_once):
    go(tmp_path)
    return tmp_path


def student(folder, teacher="bag", monkeypatch=None) -> Any:
    """Train the student: its record, the jobs that were fitted, the outcome."""
    jobs: list[members.Job] = []
    real = members.fit

    def noted(job, *rest, **more):
        jobs.append(job)
        return real(job, *rest, **more)

    if monkeypatch:
        monkeypatch.setattr(members, "fit", noted)
    outcome = go(folder, STUDENT % teacher)
    return records.find(board_of(folder), "student", 4), jobs, outcome


def test_a_student_learns_from_what_the_teacher_says_of_rows_that_it_had_not_seen(folder, monkeypatch):
    record, (job,), _ = student(folder, monkeypatch=monkeypatch)
    bag = records.arrays(board_of(folder), records.called(board_of(folder), "bag"))
    for fold in range(3):
        held = records.arrays(board_of(folder), records.called(board_of(folder), f"mlp.s4.f{fold}"))
        assert np.array_equal(bag["Training/none"][held["Training/rows"]], held["Training/none"])
    root = np.sqrt(bag["Training/none"].astype(float))  # temperature 2
    assert job.teacher == pytest.approx(root / root.sum(axis=1, keepdims=True), abs=1e-6)
    assert np.array_equal(job.labels, bag["Training/labels"])
    assert record["identity"]["teacher_sha256"] == hashlib.sha256(bag["Training/none"].tobytes()).hexdigest()
    assert record["identity"]["member"]["train"]["distill"] == {"weight": 0.4, "temperature": 2.0}


def test_the_teacher_is_known_by_what_it_says(folder):
    first, _, _ = student(folder)
    go(folder, SUITE.replace("name: bag", "name: sack"))
    again, _, outcome = student(folder, "sack")
    assert (again["run_id"], outcome.failures) == (first["run_id"], [])
    board = board_of(folder)
    sack = records.called(board, "sack")
    arrays = records.arrays(board, sack)
    arrays["Training/none"] = arrays["Training/none"][:, ::-1]
    records.save(board, sack, arrays)
    with pytest.raises(UserError, match=r"teacher_sha256: .* -> "):
        student(folder, "sack")


@pytest.mark.parametrize("name", ["nobody", "mlp", "calibrated"])
def test_a_student_without_a_teacher_fails_and_says_why(folder, name):
    record, _, outcome = student(folder, name)
    assert len(outcome.failures) == 1
    assert f"has no ensemble '{name}' that predicts Training out-of-fold" in record["failure"]["message"]
    assert "fold-average first" in record["failure"]["message"]


def test_a_finished_student_needs_its_teacher_no_more(folder):
    first, _, _ = student(folder)
    records.remove(board_of(folder), records.called(board_of(folder), "bag"))
    again, jobs, outcome = student(folder)
    assert (again, jobs, outcome.failures) == (first, [], [])


TOGETHER = """
suite: tiny
data: toyfaces
seeds: [4]
defaults: {pretrained: false, train: {epochs: 1, batch_size: 32}}
members:
  - {name: student, backbone: "baseline:mlp", train: {distill: {teacher: bag}}}
  - {name: mlp, backbone: "baseline:mlp", folds: 3, fold_views: [none], train: {lr: %s, precision: %s}}
ensembles:
  - {name: vote, members: [mlp, student]}
  - {name: bag, method: fold-average, members: [mlp], views: [none]}
"""


def foreseen(folder, text):
    (folder / "tiny.yaml").write_text(text)
    options = Options(runs_dir=folder / "runs", limit=LIMIT, device="cpu")
    return dry_run(folder / "tiny.yaml", options, Display(quiet=True))


@pytest.mark.usefixtures("drawn_once")
def test_one_call_trains_a_teacher_and_then_its_student(tmp_path):
    text = TOGETHER % (1e-3, "fp32")
    rows = {row["name"]: row for row in foreseen(tmp_path, text)}
    assert (rows["student"]["state"], rows["student"]["cannot_run"]) == ("new", None)
    outcome = go(tmp_path, text)
    assert outcome.is_whole
    names = [record["name"] for record in outcome.records]
    assert names == ["mlp", "mlp", "mlp", "mlp", "bag", "student", "vote"]
    board = board_of(tmp_path)
    taught = records.called(board, "student")["identity"]["teacher_sha256"]
    said = records.arrays(board, records.called(board, "bag"))["Training/none"]
    assert taught == hashlib.sha256(said.tobytes()).hexdigest()
    again = go(tmp_path, text)
    assert [record["run_id"] for record in again.records] == [record["run_id"] for record in outcome.records]
    assert {row["state"] for row in foreseen(tmp_path, text) if row["kind"] != "ensemble"} == {"done"}


@pytest.mark.usefixtures("drawn_once")
def test_a_student_whose_teacher_could_not_be_built_is_left(tmp_path):
    outcome = go(tmp_path, TOGETHER % (1e-3, "fp16"))  # fails on a CPU
    assert outcome.left == {"student seed 4": "its teacher bag is withheld"}
    assert set(outcome.withheld) == {"bag", "vote"}
    assert {record["name"] for record in outcome.records} == {"mlp"}
    assert go(tmp_path, TOGETHER % (1e-3, "fp32")).is_whole


def test_a_study_has_no_teacher():
    with pytest.raises(UserError, match="a study has no board"):
        tune.default_space("baseline:mlp", frozenset(), {"train": {"distill": {"teacher": "bag"}}})
