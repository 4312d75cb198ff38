import contextlib
import json
import shutil
import threading

import pytest
from test_suite import SUITE, board, go, options, written

from fer_bench import leaderboard, records
from fer_bench.files import locked
from fer_bench.suite import looks, members, stages
from fer_bench.suite.progress import Display
from fer_bench.suite.turns import claimed

pytestmark = pytest.mark.usefixtures("drawn_once")

ONE_SEED = SUITE.replace("[0, 1]", "[0]")


class Heard(Display):
    """A display that keeps what it is told."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def line(self, word):
        """The one line with a word in it."""
        (found,) = [line for line in self.lines if word in line]
        return found


def heard(tmp_path, text=ONE_SEED, should_stop=lambda: False, **more):
    display = Heard()
    return stages.run(written(tmp_path, text), options(tmp_path, **more), display, should_stop), display


def plan_of(tmp_path, text=ONE_SEED, **more):
    return stages.prepare(written(tmp_path, text), options(tmp_path, **more), Display(quiet=True))[2]


# ---- several processes


def test_run_that_another_process_is_at_is_left_and_told(tmp_path):
    slow = next(run for run in plan_of(tmp_path) if run.member.name == "mlp-slow")
    with claimed(tmp_path / "runs", slow.training_id) as other:
        assert other is None
        outcome, display = heard(tmp_path)
    assert {record["name"] for record in outcome.records} == {"mlp"}
    assert list(outcome.left) == ["mlp-slow seed 0"]
    assert list(outcome.withheld) == ["vote"]
    assert not outcome.is_whole
    assert any("another fer-bench process is at it (pid " in line for line in display.lines)
    outcome, _ = heard(tmp_path)
    assert outcome.is_whole
    assert {record["name"] for record in outcome.records} == {"mlp", "mlp-slow", "vote"}


@pytest.mark.parametrize("finished", [True, False])
def test_suite_comes_back_to_a_run_that_another_process_finished_or_gave_up(tmp_path, monkeypatch, finished):
    elsewhere = tmp_path / "elsewhere"
    heard(tmp_path, output_dir=elsewhere / "tiny-limit70", runs_dir=elsewhere)
    held = contextlib.ExitStack()
    held.enter_context(claimed(tmp_path / "runs", plan_of(tmp_path)[0].training_id))
    real, trained = stages._finish, []

    def finish(work, this):
        trained.append((this.member.name, this.state))
        if len(trained) == 1:  # while the other run is trained here, the first one comes to its end elsewhere
            for file in ("results/mlp.s0.json", "predictions/mlp.s0.npz") if finished else ():
                (board(tmp_path) / file).parent.mkdir(exist_ok=True)
                shutil.copy(elsewhere / "tiny-limit70" / file, board(tmp_path) / file)
            held.close()
        return real(work, this)

    monkeypatch.setattr(stages, "_finish", finish)
    outcome, _ = heard(tmp_path)
    assert trained == [("mlp-slow", "new"), ("mlp", "done" if finished else "new")]
    assert outcome.is_whole


def test_two_renderings_take_turns(tmp_path):
    heard(tmp_path)
    page = leaderboard.board_file(board(tmp_path))
    page.unlink()
    other = threading.Thread(target=leaderboard.write, args=(board(tmp_path),))
    with locked(board(tmp_path)):
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert not page.exists()
    other.join(60)
    assert leaderboard.check(board(tmp_path)) == []


# ---- looks


def test_look_before_a_kill_is_in_the_record_that_follows(tmp_path, monkeypatch):
    class KilledError(BaseException):
        """What ends a process at once."""

    def killed(*args):
        raise KilledError

    real = records.save
    monkeypatch.setattr(members.records, "save", killed)
    with pytest.raises(KilledError):
        go(tmp_path, ONE_SEED)
    monkeypatch.setattr(members.records, "save", real)
    go(tmp_path, ONE_SEED)
    go(tmp_path, ONE_SEED)
    count = {record["name"]: len(record["looks"]) for record in records.load_all(board(tmp_path))}
    assert count == {"mlp": 2, "mlp-slow": 1, "vote": 0}
    assert leaderboard.check(board(tmp_path)) == []


def identity(seed, *views):
    return {"kind": "member", "seed": seed, "member": {"views": list(views)}}


A = identity(0, "none")


def look(second, run_id="a"):
    return {"part": "PrivateTest", "purpose": "x", "run_id": run_id, "time": f"2025-01-01T00:00:0{second}+00:00"}


def test_looks_are_kept_one_a_line_and_a_torn_line_is_none(tmp_path):
    assert looks.noted(tmp_path, A) == []
    looks.note(tmp_path, A, look(1))
    (path,) = (tmp_path / "looks").iterdir()
    with open(path, "a") as file:
        file.write(json.dumps(look(2))[:20])
    looks.note(tmp_path, A, look(3))
    looks.note(tmp_path, identity(1, "none"), look(4, "b"))
    assert looks.noted(tmp_path, A) == [look(1), look(3)]


def test_looks_are_those_with_the_weights_whatever_views_and_under_the_older_file_name(tmp_path):
    looks.note(tmp_path, A, look(1))
    looks.note(tmp_path, identity(0, "none", "flip"), look(2, "b"))
    older = tmp_path / "looks" / f"{records.run_id(A)}.jsonl"
    older.write_text(json.dumps(look(0)) + "\n")
    assert looks.noted(tmp_path, A) == [look(0), look(1), look(2, "b")]
    assert looks.noted(tmp_path, identity(0, "flip")) == [look(1), look(2, "b")]


def test_joined_looks_are_counted_once_each():
    """The record has the first two; the notes here have the last two, of which two came within one second."""
    assert looks.joined([look(2), look(1)], [look(2), look(2)]) == [look(1), look(2), look(2)]
    assert looks.joined([], []) == []


# ---- --force that was stopped


def test_stopped_force_is_told_and_force_goes_on_with_it(tmp_path):
    heard(tmp_path)
    before = (board(tmp_path) / "results" / "mlp.s0.json").read_bytes()
    asked = iter([False] * 4)
    outcome, _ = heard(tmp_path, force=True, should_stop=lambda: next(asked, True))
    assert outcome.stopped
    (checkpoint,) = (tmp_path / "runs" / "checkpoints").iterdir()
    outcome, display = heard(tmp_path)
    assert outcome.is_whole
    assert "--force was stopped while doing it again, and goes on with that" in display.line("mlp seed 0")
    assert "done already" in display.line("mlp-slow seed 0")
    assert (board(tmp_path) / "results" / "mlp.s0.json").read_bytes() == before
    assert checkpoint.exists()
    heard(tmp_path, force=True)
    assert not checkpoint.exists()


# ---- --seed and votes


def seeds_of_vote(tmp_path):
    record = records.find(board(tmp_path), "vote", None)
    assert record is not None
    return {member["seed"] for member in record["members"]}


def test_votes_are_over_the_seeds_asked_for_and_replace_no_other(tmp_path):
    outcome, display = heard(tmp_path, SUITE, seeds=(5,))
    assert outcome.is_whole
    assert seeds_of_vote(tmp_path) == {5}
    assert "over seed 5 as asked for, not over the suite's seeds 0, 1" in display.line("ensembles are")
    outcome, display = heard(tmp_path, SUITE, seeds=(6,))
    assert seeds_of_vote(tmp_path) == {5}
    assert not outcome.is_whole
    assert "the board has it over other runs" in outcome.withheld["vote"]
    assert "seeds 0, 1" in display.line("withheld")
    assert heard(tmp_path, SUITE, seeds=(5,))[0].is_whole
    outcome, display = heard(tmp_path, SUITE)
    assert outcome.is_whole
    assert seeds_of_vote(tmp_path) == {0, 1}
    assert not any("as asked for" in line for line in display.lines)
    assert heard(tmp_path, SUITE, seeds=(1, 0))[0].is_whole  # the suite's own seeds, in another order
    assert seeds_of_vote(tmp_path) == {0, 1}
