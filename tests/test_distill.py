"""A student of out-of-fold predictions, trained for real on a few drawn faces."""

import hashlib
from typing import Any

import numpy as np
import pytest
from test_folds import SUITE, board_of, go

from fer_bench import records, tune
from fer_bench.errors import UserError
from fer_bench.suite import members

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


def test_a_study_has_no_teacher():
    with pytest.raises(UserError, match="a study has no board"):
        tune.default_space("baseline:mlp", frozenset(), {"train": {"distill": {"teacher": "bag"}}})
