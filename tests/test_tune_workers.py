"""Workers that are killed, on every kind of storage; the objective sleeps instead of training."""

import functools
import multiprocessing
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fer_bench import config, tune
from fer_bench.errors import UserError
from fer_bench.tune import budget
from fer_bench.tune.space import Dimension, Space
from fer_bench.tune.study import opened

PASSWORD = "not-for-logs"
SPACE = Space(
    config.Member(name="default", backbone="baseline:mlp", pretrained=False),
    {"train.lr": (Dimension(low=1e-4, high=1e-1, log=True),)},
)


def plan_of(folder: Path, storage: str, trials: int) -> tune.Plan:
    question = {"test": folder.name}  # a server keeps the studies of all tests
    place = tune.parse_storage(storage)
    return tune.Plan("toy", question, SPACE, 4, place, folder, tune.Budget(trials), "none", beat=1, grace=3)


def objective(attempt: tune.Attempt, folder: Path, fatal: int, wait: bool) -> tune.Outcome:
    """Dies, or waits to be killed, in the trial of that number after one report; quick in all others."""
    attempt.report(1, 0.25)
    if attempt.number == fatal:
        (folder / "mid-trial").touch()
        if not wait:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    time.sleep(0.05)
    attempt.report(2, 0.5)
    return tune.Outcome(float(attempt.values["train.lr"]), np.ones(3, dtype=bool))


def make(folder: Path, fatal: int = -1, wait: bool = False) -> tune.Objective:
    return functools.partial(objective, folder=folder, fatal=fatal, wait=wait)


def work(plan: tune.Plan, folder: Path, fatal: int = -1, wait: bool = False) -> str:
    return tune.work(plan, make(folder, fatal, wait), time.time(), lambda: False)


def kill_in_mid_trial(plan: tune.Plan, folder: Path, fatal: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(plan, folder, fatal, True))
    process.start()
    end = time.monotonic() + 120
    while not (folder / "mid-trial").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def check_whole(plan: tune.Plan, total: int, killed: int) -> None:
    """The right total, nobody running, no point twice but the killed one, which was tried again as it was."""
    with opened(plan) as this:
        trials = this.trials()
    assert budget.tally(trials) == budget.Tally(complete=total, lost=1)
    again = [trial for trial in trials if "retry_of" in trial.user_attrs]
    assert [trial.user_attrs["retry_of"] for trial in again] == [killed]
    assert again[0].params == trials[killed].params
    assert again[0].intermediate_values == {1: 0.25, 2: 0.5}
    points = [trial.params["train.lr"] for trial in trials if trial is not again[0]]
    assert len(set(points)) == len(points) == total


# ---- a server


def binaries() -> Path | None:
    """The folder of PostgreSQL's own programs, which distributions keep out of the PATH."""
    found = shutil.which("initdb")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[4].zfill(4))
    return Path(found).resolve().parent if found else versions[-1].parent if versions else None


def unprivileged() -> str | None:
    """A user that may start a server, which root may not; None is the present one."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a database on a PostgreSQL server of its own, with a password."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'psycopg[binary]'")
    programs, user = binaries(), unprivileged()
    if programs is None:
        pytest.skip("needs PostgreSQL's initdb: apt install postgresql (make postgres)")
    if os.geteuid() == 0 and user is None:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
    with tempfile.TemporaryDirectory(prefix="fer-bench-pg-") as folder:
        Path(folder, "password").write_text(PASSWORD)
        if user is not None:
            shutil.chown(folder, user)
            shutil.chown(f"{folder}/password", user)
        yield from _serve(programs, Path(folder), user)


def _serve(programs: Path, folder: Path, user: str | None) -> Iterator[str]:
    def run(*words: str) -> None:
        subprocess.run(words, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    access = ("--username=me", "--auth=scram-sha-256", f"--pwfile={folder}/password")
    run(str(programs / "initdb"), "-D", data, "--no-sync", "--encoding=UTF8", *access)
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
    run(str(programs / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        run(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")


# ---- killed


@pytest.mark.parametrize("name", ["t.db", "t.journal"])
def test_a_worker_killed_in_mid_trial_leaves_a_whole_study(tmp_path, name):
    plan = plan_of(tmp_path, str(tmp_path / name), 4)
    kill_in_mid_trial(plan, tmp_path, fatal=2)
    assert work(plan, tmp_path) == "done"
    check_whole(plan, total=4, killed=2)


def test_on_postgresql_the_heartbeat_tells_of_a_worker_killed_on_another_machine(tmp_path, server, capfd):
    plan = plan_of(tmp_path, server, 4)
    kill_in_mid_trial(plan, tmp_path, fatal=2)
    shutil.rmtree(plan.folder / "alive")  # what another machine does not have
    with opened(plan) as this:
        assert budget.tally(this.trials()).running == 1
    assert work(plan, tmp_path) == "done"
    check_whole(plan, total=4, killed=2)
    out, err = capfd.readouterr()
    assert PASSWORD not in out + err


def test_a_wrong_password_is_a_users_mistake_that_does_not_repeat_it(tmp_path, server):
    with pytest.raises(UserError, match="password authentication failed") as error:
        work(plan_of(tmp_path, server.replace(PASSWORD, "wrong-" + PASSWORD), 1), tmp_path)
    assert PASSWORD not in str(error.value)


def test_four_workers_give_the_count_that_was_asked_for_though_one_is_killed(tmp_path):
    plan = plan_of(tmp_path, str(tmp_path / "t.db"), 10)
    makes = [functools.partial(make, tmp_path, 5)] * 4
    seen = []
    with opened(plan) as this:
        verdict = tune.supervise(this, makes, time.time(), lambda: False, lambda trials: seen.append(len(trials)))
    assert verdict == "done"
    assert seen[-1] == 11
    check_whole(plan, total=10, killed=5)


def flaky(attempt: tune.Attempt) -> tune.Outcome:
    """Every worker dies in its second trial."""
    if attempt.folder.with_name(str(os.getpid())).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    attempt.folder.with_name(str(os.getpid())).touch()
    return tune.Outcome(float(attempt.values["train.lr"]))


def make_flaky() -> tune.Objective:
    return flaky


def test_workers_that_die_now_and_then_are_replaced_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[tune.supervise.__module__], "MOST_FAILURES", 2)
    plan = plan_of(tmp_path, str(tmp_path / "t.db"), 4)
    with opened(plan) as this:
        assert tune.supervise(this, [make_flaky], time.time(), lambda: False, lambda trials: None) == "done"
        assert budget.tally(this.trials()) == budget.Tally(complete=4, lost=3)


def test_workers_that_die_at_once_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[tune.supervise.__module__], "MOST_FAILURES", 2)
    plan = plan_of(tmp_path, str(tmp_path / "t.db"), 4)
    with opened(plan) as this:
        assert tune.supervise(this, [die], time.time(), lambda: False, lambda trials: None) == "failures"
        assert budget.tally(this.trials()) == budget.Tally()


def die() -> tune.Objective:
    os._exit(1)


def test_workers_asked_to_stop_put_their_points_back(tmp_path):
    plan = plan_of(tmp_path, str(tmp_path / "t.db"), 5)
    with opened(plan) as this:
        verdict = tune.supervise(
            this,
            [functools.partial(make_patient, tmp_path)],
            time.time(),
            lambda: (tmp_path / "mid-trial").exists(),
            lambda trials: None,
        )
        assert verdict == "stopped"
        stopped, waiting = this.trials()
    assert (budget.state(stopped), budget.state(waiting)) == ("stopped", "waiting")
    assert waiting.params == stopped.params
    assert not multiprocessing.active_children()


def test_a_worker_leaves_ctrl_c_to_its_parent_from_the_start(tmp_path):
    """Without that, one that only just began ends in a traceback, in the face of who pressed it."""
    plan, handler = plan_of(tmp_path, str(tmp_path / "t.db"), 1), signal.getsignal(signal.SIGINT)
    with opened(plan) as this:
        assert tune.supervise(this, [interrupted], time.time(), lambda: False, lambda trials: None) == "done"
        assert budget.tally(this.trials()) == budget.Tally(complete=1)
    assert signal.getsignal(signal.SIGINT) is handler


def interrupted() -> tune.Objective:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        raise UserError("Ctrl-C would end this worker")
    return lambda attempt: tune.Outcome(0.5)


def patient(attempt: tune.Attempt, folder: Path) -> tune.Outcome:
    (folder / "mid-trial").touch()
    while not attempt.should_stop():
        time.sleep(0.02)
    raise tune.StoppedError


def make_patient(folder: Path) -> tune.Objective:
    return functools.partial(patient, folder=folder)


def test_a_worker_that_cannot_start_says_why(tmp_path):
    plan = plan_of(tmp_path, str(tmp_path / "t.db"), 5)
    with opened(plan) as this, pytest.raises(UserError, match="no data here"):
        tune.supervise(this, [refuse], time.time(), lambda: False, lambda trials: None)


def refuse() -> tune.Objective:
    raise UserError("no data here")
