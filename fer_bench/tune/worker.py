"""One process that works: claim a point, run the objective, tell how it ended, until there is nothing left to do."""

import base64
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fer_bench.files import sha256_bytes
from fer_bench.tune import storage
from fer_bench.tune.claims import Verdict, beat, claim, put_back
from fer_bench.tune.space import Values, values_of
from fer_bench.tune.study import Opened, Plan, key_of, opened

if TYPE_CHECKING:
    from optuna.trial import Trial

POLL = 1.0
PATIENCE = (1, 2, 4, 8, 15, 30)
"""Seconds between tries to reach a storage that does not answer."""


class PrunedError(Exception):
    """The trial is not worth going on with."""


class HopelessError(Exception):
    """The trial diverged: it ended with a result, a bad one; the text says how."""


class StoppedError(Exception):
    """The trial was asked to stop; it can be gone on with."""


class LostError(Exception):
    """The trial was given to another worker, since this one seemed dead."""


class FailedError(Exception):
    """The trial failed for a reason that has a name, such as ``out of memory``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Attempt:
    """What an objective gets: a point, and whom to tell."""

    number: int
    values: Values
    key: str
    """Hex digits that stand for the point: what its checkpoints are named by, also when it is tried again."""
    folder: Path
    report: Callable[[int, float], None]
    """(step from 1, value so far); raises PrunedError or LostError."""
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class Outcome:
    """What an objective returns: a value to be as high as possible, and which of the scored rows were right."""

    value: float
    right: np.ndarray | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    """What else is worth keeping of the trial, JSON."""


Objective = Callable[[Attempt], Outcome]
T = TypeVar("T")


def work(plan: Plan, objective: Objective, since: float, should_stop: Callable[[], bool]) -> Verdict:
    """Work on a study until its budget is spent, and say why there is nothing left.

    Raises:
        UserError: a storage that cannot be used, or did not answer for about a minute.
    """
    misses = 0
    with opened(plan) as this:
        while not should_stop():
            try:
                verdict = _turn(this, objective, since, should_stop)
                misses = 0
            except storage.outages():
                if misses == len(PATIENCE):
                    raise
                time.sleep(PATIENCE[misses])
                misses += 1
                continue
            if verdict == "wait":
                time.sleep(POLL)
            elif verdict is not None:
                return verdict
    return "stopped"


def _turn(this: Opened, objective: Objective, since: float, should_stop: Callable[[], bool]) -> Verdict | None:
    """Claim a point and work on it, or say why there is none."""
    with contextlib.ExitStack() as held:
        found = claim(this, since, held)
        if isinstance(found, str):
            return found
        _run(this, *found, objective, should_stop)
    return None


def _run(
    this: Opened, trial: "Trial", deadline: float | None, objective: Objective, should_stop: Callable[[], bool]
) -> None:
    import optuna

    def stop() -> bool:
        return should_stop() or (deadline is not None and time.time() >= deadline)

    state = optuna.trial.TrialState
    with contextlib.suppress(LostError, optuna.exceptions.UpdateFinishedTrialError):
        try:
            with _beating(this, trial._trial_id):
                outcome = objective(_attempt(this, trial, stop))
        except StoppedError:
            put_back(this, trial)
        except PrunedError as error:
            _end(this, trial, state.PRUNED, {"reason": "pruned", "message": str(error)})
        except HopelessError as error:
            _end(this, trial, state.PRUNED, {"reason": "diverged", "message": str(error)})
        except (LostError, optuna.exceptions.UpdateFinishedTrialError):
            raise
        except Exception as error:  # one trial's trouble, whatever it is, must not take the study with it
            if os.environ.get("FER_BENCH_DEBUG"):
                raise
            _end(this, trial, state.FAIL, {"reason": _reason(error), "message": _message(error)})
        else:
            right = {} if outcome.right is None else {"rows": len(outcome.right), "right": pack(outcome.right)}
            _end(this, trial, state.COMPLETE, outcome.notes | right, outcome.value)


def _attempt(this: Opened, trial: "Trial", stop: Callable[[], bool]) -> Attempt:
    """A sampled point may be pruned in the first two thirds of its steps: later it has paid for a whole result."""
    known = set(this.trials()[trial.number].intermediate_values)
    keeps = trial.user_attrs.get("origin") != "sampled"  # what is compared with must reach the end

    def report(step: int, value: float) -> None:
        import optuna

        try:
            if step not in known:
                patiently(lambda: trial.report(value, step))
                known.add(step)
            if trial.should_prune() and not keeps and step * 3 <= this.plan.steps * 2:
                raise PrunedError(f"after step {step} of {this.plan.steps}, by {this.study.user_attrs['pruner']}")
        except optuna.exceptions.UpdateFinishedTrialError:
            raise LostError from None

    key = sha256_bytes(key_of(trial.params).encode())[:16]
    return Attempt(trial.number, values_of(trial.params), key, this.plan.folder, report, stop)


def _end(this: Opened, trial: "Trial", state: Any, notes: dict[str, Any], value: float | None = None) -> None:
    def tell() -> None:
        trial.set_user_attr("notes", notes)
        trial.set_user_attr("seen", time.time())
        this.study.tell(trial, value, state=state)

    patiently(tell)


def _reason(error: Exception) -> str:
    if isinstance(error, FailedError):
        return error.reason
    return "out of memory" if isinstance(error, MemoryError) else "infrastructure"


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, FailedError) and text else f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _beating(this: Opened, trial_id: int) -> Iterator[None]:
    """Send heartbeats from a thread while the block runs."""
    over = threading.Event()

    def go() -> None:
        while not over.wait(this.plan.beat):
            with contextlib.suppress(Exception):  # a storage that is away for a while: the next beat tells
                beat(this, trial_id)
        this.storage.remove_session()

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def patiently(action: Callable[[], T]) -> T:
    """Do something that needs the storage, again for a minute where it does not answer."""
    for seconds in PATIENCE:
        try:
            return action()
        except storage.outages():
            time.sleep(seconds)
    return action()


def pack(right: np.ndarray) -> str:
    """A mask (N,) as text: a bit a row, in base64."""
    return base64.b64encode(np.packbits(np.asarray(right, dtype=bool)).tobytes()).decode()


def unpack(text: str, rows: int) -> np.ndarray:
    """The mask (N,) of ``pack``."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=rows).astype(bool)
