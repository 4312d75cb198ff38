"""Several runs at once on one device, each in a process of its own.

The parent plans, hands out runs and speaks; a worker trains and scores one run after the other and writes their records
itself. The pipe between them carries runs and the wish to stop one way; lines, progress and records the other way. A
worker that finds its pipe closed stops at a checkpoint, so none outlives the parent. One that dies leaves a failure,
and the others go on.
"""

import contextlib
import gc
import multiprocessing
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from fer_bench.allocation import keep_freed_memory
from fer_bench.data import Faces, cache
from fer_bench.errors import UserError
from fer_bench.suite.budget import Pace
from fer_bench.suite.members import Setting, run_member, save_failure
from fer_bench.suite.outcome import score_line
from fer_bench.suite.plan import Run
from fer_bench.suite.progress import Display, epoch_line
from fer_bench.suite.schedule import Watch
from fer_bench.suite.work import Work
from fer_bench.train import Progress, StoppedError

TICK = 0.2
"""Seconds between two looks of the parent at its signals and its time."""
PATIENCE = 60.0
"""Seconds for a worker to write its checkpoint and end."""

Record = dict[str, Any]


# ---- in a worker


def work(pipe: Connection, faces: Path, bare: Setting, threads: int) -> None:
    """Train the runs that come through the pipe until it is closed, or until SIGTERM."""
    terminated: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; the parent tells what to do
    signal.signal(signal.SIGTERM, lambda number, frame: terminated.append(number))
    torch.set_num_threads(threads)
    keep_freed_memory()
    setting = replace(bare, faces=_read(faces))
    while not terminated:
        try:
            run = pipe.recv()
        except EOFError:
            return
        if isinstance(run, Run):  # else a wish to stop that came too late
            message = _trained(setting, run, _Ear(pipe, terminated), _Mouth(pipe))
            with contextlib.suppress(OSError):
                pipe.send(message)
            gc.collect()
            if setting.device.type == "cuda":
                torch.cuda.empty_cache()  # the other workers need it


def _trained(setting: Setting, run: Run, ear: "_Ear", mouth: "_Mouth") -> tuple[str, Any]:
    try:
        return "record", run_member(setting, run, ear, mouth)
    except StoppedError:
        return "stopped", None


@dataclass
class _Ear:
    """Whether the parent, its end or a signal asks to stop."""

    pipe: Connection
    terminated: list[int]
    asked: bool = False

    def __call__(self) -> bool:
        if not self.asked and self.pipe.poll():
            self.asked = True
            with contextlib.suppress(EOFError, OSError):
                self.pipe.recv()
        return self.asked or bool(self.terminated)


@dataclass
class _Mouth:
    """Tells the parent of every epoch, and once a second how long the run still takes."""

    pipe: Connection
    pace: Pace = field(default_factory=Pace)
    told: float = 0.0

    def __call__(self, where: Progress) -> None:
        now, (done, total) = time.monotonic(), where.steps_made
        seconds = self.pace.left(done, total, now)
        with contextlib.suppress(OSError):  # the parent is gone: the ear notices
            if where.entry is not None:
                self.pipe.send(("line", epoch_line(where).strip()))
            if seconds is not None and now - self.told > 1:
                self.pipe.send(("pace", (seconds, 1 - done / total)))
                self.told = now


@contextlib.contextmanager
def _written(faces: Faces) -> Iterator[Path]:
    """Lay the faces down where workers read the very same, for a pipe would be slow."""
    with tempfile.TemporaryDirectory(prefix="fer-bench-") as folder:
        cache.write(Path(folder), "faces", faces)
        yield Path(folder)


def _read(folder: Path) -> Faces:
    faces = cache.read(folder, "faces")
    if faces is None:
        raise UserError(f"{folder}: the faces could not be handed over to another process; is the disk full?")
    return faces


# ---- in the parent


@dataclass
class _Worker:
    """A process and the run that it has, None while it waits for one."""

    process: SpawnProcess
    pipe: Connection
    run: Run
    watch: Watch
    turn: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Holds the claim to its run."""
    is_busy: bool = True
    is_asked: bool = False

    def rest(self) -> None:
        """Have no run any more."""
        self.is_busy = False
        self.turn.close()

    def stop(self) -> None:
        """Ask once for a stop at a checkpoint."""
        if not self.is_asked:
            self.is_asked = True
            with contextlib.suppress(OSError):
                self.pipe.send(None)


@dataclass
class _Crew:
    """All workers, and what their runs came to."""

    work: Work
    faces: Path
    workers: list[_Worker] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)

    @property
    def busy(self) -> list[_Worker]:
        """The workers that have a run."""
        return [worker for worker in self.workers if worker.is_busy]

    def begin(self, run: Run, turn: contextlib.ExitStack) -> None:
        """Hand a run, to which ``turn`` holds the claim, to a worker that waits, or to a new one."""
        self.workers = [worker for worker in self.workers if worker.is_busy or worker.process.is_alive()]
        idle = next((worker for worker in self.workers if not worker.is_busy), None)
        if idle is None:
            idle = self._start(run)
            self.workers.append(idle)
        idle.run, idle.watch, idle.turn = run, self.work.schedule.watch(run), turn
        idle.is_busy, idle.is_asked = True, False
        with contextlib.suppress(OSError):  # a dead one is found when it is listened to
            idle.pipe.send(run)

    def _start(self, run: Run) -> _Worker:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        setting, faces = self.work.setting, self.work.setting.faces
        none = replace(faces, images=faces.images[:0], labels=faces.labels[:0], parts=faces.parts[:0])
        threads = max(1, torch.get_num_threads() // setting.options.jobs)
        process = multiprocessing.get_context("spawn").Process(
            target=work, args=(theirs, self.faces, replace(setting, faces=none), threads), daemon=True
        )
        with _interrupts_ignored():
            process.start()
        theirs.close()
        return _Worker(process, ours, run, self.work.schedule.watch(run))

    def listen(self, is_stopping: bool) -> None:
        """Take in what workers say within a tick."""
        by_pipe = {worker.pipe: worker for worker in self.busy}
        for pipe in wait(list(by_pipe), TICK):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):
                kind, value = "died", None
            self._hear(worker, kind, value, is_stopping)

    def _hear(self, worker: _Worker, kind: str, value: Any, is_stopping: bool) -> None:
        if kind == "line":
            self.work.display.say(f"{worker.run.title}: {value}")
        elif kind == "pace":
            worker.watch.note(*value)
        elif kind == "record":
            self.note(worker.run, value)
            worker.rest()
        else:
            if kind == "died":
                self.workers.remove(worker)
                worker.process.join(PATIENCE)
            if kind == "died" and not is_stopping:
                failure = save_failure(self.work.setting, worker.run, "infrastructure", _death(worker.process))
                self.note(worker.run, failure)
            else:
                self.work.display.say(f"{worker.run.title}: stopped at a checkpoint")
                self.work.schedule.give_back(worker.run)
            worker.rest()

    def note(self, run: Run, record: Record) -> None:
        """Keep a run's record."""
        self.records[run.title] = record
        self.work.display.say(f"{run.title}: {score_line(record)}")
        self.work.schedule.note_finished(run, record)

    def dismiss(self) -> None:
        """Let every worker end, one that trains at a checkpoint."""
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join(PATIENCE)
            worker.process.kill()
            worker.rest()


def _death(process: SpawnProcess) -> str:
    code = process.exitcode
    if code is None or code >= 0:
        return f"its process ended with exit code {code}"
    hint = ", as systems do that are short of memory" if -code == signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-code).name}{hint}"


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A child born now ignores Ctrl-C from its first moment: what is ignored is inherited, what is handled is not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def train(work: Work, at_once: Callable[[Setting, Run, Display], Record | None]) -> None:
    """Do the runs that the schedule hands out, ``options.jobs`` at once; ``at_once`` does those without training."""
    with _written(work.setting.faces) as faces:
        crew = _Crew(work, faces)
        try:
            _drive(crew, at_once)
        except KeyboardInterrupt:
            for worker in crew.workers:
                worker.process.kill()
            raise
        finally:
            crew.dismiss()
    work.outcome.records += [crew.records[run.title] for run in work.plan if run.title in crew.records]
    if work.should_stop() and (work.schedule.pending or work.schedule.put_back):
        work.display.say("stopped; the same command goes on")
        work.outcome.stopped = True


def _drive(crew: _Crew, at_once: Callable[[Setting, Run, Display], Record | None]) -> None:
    work = crew.work
    while True:
        is_stopping = work.should_stop()
        work.schedule.note_beside([worker.watch for worker in crew.busy])
        while not is_stopping and len(crew.busy) < work.setting.options.jobs:
            run = work.schedule.take([worker.run for worker in crew.busy])
            if run is None:
                break
            _hand_out(crew, run, at_once)
        if not crew.busy:
            return
        for worker in crew.busy:
            if is_stopping or worker.watch.must_stop():
                worker.stop()
        crew.listen(is_stopping)


def _hand_out(crew: _Crew, run: Run, at_once: Callable[[Setting, Run, Display], Record | None]) -> None:
    """Do a run at once where it needs no training, else hand it to a worker together with the claim to it."""
    with contextlib.ExitStack() as turn:
        now = turn.enter_context(crew.work.turn(run))
        if now is None:
            return
        record = at_once(crew.work.setting, now, crew.work.display)
        if record is not None:
            crew.note(now, record)
        else:
            crew.begin(now, turn.pop_all())
