"""Local workers: started, watched, replaced when they die, stopped together."""

import contextlib
import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from fer_bench.errors import UserError
from fer_bench.tune import storage
from fer_bench.tune.budget import MOST_FAILURES, tally
from fer_bench.tune.claims import Verdict, reap
from fer_bench.tune.study import Opened, Plan
from fer_bench.tune.worker import Objective, patiently, work

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

POLL = 1.0
RANK: tuple[Verdict, ...] = ("done", "exhausted", "time", "stopped", "failures")
"""Which of the workers' verdicts stands for all, the last one first."""
Make = Callable[[], Objective]


@dataclass(frozen=True)
class Worker:
    """A local process and the end of the pipe that its last word comes through."""

    process: BaseProcess
    pipe: Connection
    make: Make


def supervise(
    this: Opened,
    makes: Sequence[Make],
    since: float,
    should_stop: Callable[[], bool],
    show: Callable[[Sequence["FrozenTrial"]], None],
) -> Verdict:
    """Keep one worker for each of ``makes`` at work until none has anything left to do; returns why.

    Args:
        this: the study.
        makes: each is called once in a process of its own and gives the objective; picklable.
        since: when this call of the command began.
        should_stop: asked about once a second; workers then stop after a checkpoint.
        show: told the trials about once a second.

    Raises:
        UserError: when a worker cannot start, with its reason.
    """
    workers: list[Worker] = []
    verdicts: list[Verdict] = []
    died, ended, asked = 0, 0, False
    try:
        with _inherited(len(makes)):
            workers += [_start(this.plan, make, since) for make in makes]
        while workers:
            time.sleep(POLL)
            if should_stop() and not asked:
                asked = True
                for worker in workers:
                    worker.process.terminate()
            for worker in [worker for worker in workers if not worker.process.is_alive()]:
                workers.remove(worker)
                verdict = _last_word(worker)
                verdicts += [verdict] if verdict else []
                if verdict is None:
                    before, ended = ended, patiently(functools.partial(_clear_up, this))
                    died = died + 1 if ended == before else 1
                    if not asked and died < MOST_FAILURES:
                        with _inherited(len(makes)):
                            workers.append(_start(this.plan, worker.make, since))
            with contextlib.suppress(*storage.outages()):  # the workers wait for it, and say so
                show(this.trials())
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
    if died >= MOST_FAILURES:
        return "failures"
    return max(verdicts, key=RANK.index, default="stopped")


def _clear_up(this: Opened) -> int:
    """Let the trials of dead workers be tried again; returns how many trials have ended so far."""
    with storage.locked(this.plan.place, this.plan.name):
        reap(this)
    return tally(this.trials()).ended


def _start(plan: Plan, make: Make, since: float) -> Worker:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_live, args=(plan, make, since, os.getpid(), theirs))
    process.start()
    theirs.close()
    return Worker(process, ours, make)


def _last_word(worker: Worker) -> Verdict | None:
    """What an ended worker said; None where it died without a word."""
    worker.process.join()
    with contextlib.suppress(EOFError, OSError):
        kind, text = worker.pipe.recv()
        if kind == "error":
            raise UserError(text)
        return text
    return None


def _live(plan: Plan, make: Make, since: float, parent: int, pipe: Connection) -> None:
    """A worker's whole life. It stops on SIGTERM, and when its parent is gone."""
    caught: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    try:
        pipe.send(("verdict", work(plan, make(), since, lambda: bool(caught) or os.getppid() != parent)))
    except UserError as error:
        pipe.send(("error", str(error)))
    except BrokenPipeError:
        pass  # the parent is gone, and the last trial is put back


@contextlib.contextmanager
def _inherited(workers: int) -> Iterator[None]:
    """What the block starts uses its part of the processor, unless the user has decided, and ignores Ctrl-C.

    A terminal sends Ctrl-C to every process; this one tells the others what to do, also those that only just begin.
    """
    before, handler = dict(os.environ), signal.signal(signal.SIGINT, signal.SIG_IGN)
    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        signal.signal(signal.SIGINT, handler)
