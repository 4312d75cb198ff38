import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fer_bench import records
from fer_bench.suite.budget import Budget
from fer_bench.suite.plan import Options
from fer_bench.suite.progress import Display
from fer_bench.suite.stages import run

pytestmark = pytest.mark.usefixtures("drawn_once")

SUITE = """
suite: tiny
data: toyfaces
defaults:
  pretrained: false
  backbone: "baseline:mlp"
  train: {epochs: 2, batch_size: 8, lr: 1e-3, precision: fp32}  # leaves the machine nothing to choose
members:
  - {name: one}
  - {name: same}
  - {name: two, train: {lr: 1e-4}}
ensembles:
  - {name: vote, members: [one, two]}
"""


class Said(Display):
    """Keeps what is said."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def go(folder, text=SUITE, should_stop=lambda: False, **more):
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(text)
    display = Said()
    options = Options(**({"runs_dir": folder / "runs", "limit": 40, "device": "cpu", "jobs": 2} | more))
    return run(folder / "tiny.yaml", options, display, should_stop), display.lines


def board(folder):
    return folder / "runs" / "tiny-limit40"


def bits(folder):
    return {(r["name"], r["run_id"], r["predictions"]["sha256"]) for r in records.load_all(board(folder))}


def test_jobs_leave_the_records_that_one_by_one_leaves(tmp_path):
    outcome, said = go(tmp_path / "two")
    assert [record["name"] for record in outcome.records] == ["one", "same", "two", "vote"]
    assert any(line.startswith("two seed 0: epoch 1/2") for line in said)
    go(tmp_path / "one", jobs=1)
    assert bits(tmp_path / "two") == bits(tmp_path / "one")
    found = {(r["name"], r["environment"].get("jobs")) for r in records.load_all(board(tmp_path / "two"))}
    assert found == {("one", 2), ("same", 2), ("two", 2), ("vote", None)}


def test_a_worker_that_dies_leaves_a_failure_and_the_others_go_on(tmp_path):
    killed: list = []

    def should_stop():  # the parent asks this a few times a second
        for child in multiprocessing.active_children() if not killed else []:
            killed.append(child.pid)
            child.kill()
        return False

    text = SUITE.split("  - {name: two")[0]
    outcome, _ = go(tmp_path, text, should_stop)
    assert len(killed) == 1
    (failure,) = outcome.failures
    assert (failure["name"], failure["failure"]["reason"]) == ("one", "infrastructure")
    assert "SIGKILL" in failure["failure"]["message"]
    assert [r["name"] for r in outcome.records if r["kind"] == "member"] == ["same"]
    assert multiprocessing.active_children() == []


def test_an_interrupt_of_the_whole_group_stops_all_at_checkpoints(tmp_path):
    text = SUITE.replace("epochs: 2", "epochs: 10000").replace("{name: same}", "{name: same, image_size: 64}")
    (tmp_path / "tiny.yaml").write_text(text)
    command = [sys.executable, "-m", "fer_bench", "run", "tiny.yaml", "--device", "cpu", "--jobs", "2", "--limit", "40"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    seen = ""
    while "one seed 0: epoch" not in seen or "same seed 0: epoch" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on" in rest
    assert "Traceback" not in rest
    assert len(list((tmp_path / "runs" / "checkpoints").glob("*.pt"))) == 2


def test_a_spent_budget_leaves_the_runs_and_renders_the_board(tmp_path):
    outcome, said = go(tmp_path, jobs=1, budget=Budget(1e-9))
    assert list(outcome.left) == ["one seed 0", "same seed 0", "two seed 0"]
    assert list(outcome.withheld) == ["vote"]
    assert not outcome.is_whole
    assert outcome.failures == []
    assert outcome.board_file.is_file()
    assert "two seed 0: left for a later call" in said


class SoonSpent(Budget):
    """A budget that ends after it was asked for a dozen times."""

    asked = itertools.count()

    def left(self):
        return 1.0 if next(self.asked) < 12 else -1.0


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_the_budget_ends_goes_on_in_a_later_call(tmp_path, jobs, monkeypatch):
    monkeypatch.setattr(SoonSpent, "asked", itertools.count())
    text = SUITE.split("  - {name: same")[0].replace("epochs: 2", "epochs: 10000")
    outcome, _ = go(tmp_path, text, jobs=jobs, budget=SoonSpent(1.0))
    assert outcome.left["one seed 0"].startswith("the time is up, about ")  # it did not fit, but nothing else did
    assert not outcome.stopped
    assert len(list((tmp_path / "runs" / "checkpoints").glob("*.pt"))) == 1
    outcome, said = go(tmp_path, text, jobs=1, should_stop=lambda: True)
    assert any("going on from its checkpoint" in line for line in said)
