"""What a study may spend, counted from its trials alone, so that restarts, workers and machines share one budget."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fer_bench.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STOPPED = "stopped"
"""The reason of an attempt that was asked to stop: its point waits to be gone on with, and it failed at nothing."""
MOST_FAILURES = 10
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Budget:
    """Trials that end, complete or pruned, and seconds in which anyone worked; None is without a limit."""

    trials: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Tally:
    """How many trials are where. ``lost``: their worker died. Neither these nor ``failed`` use up the budget."""

    complete: int = 0
    pruned: int = 0
    running: int = 0
    waiting: int = 0
    failed: int = 0
    lost: int = 0

    @property
    def ended(self) -> int:
        """Trials that the budget counts."""
        return self.complete + self.pruned


def counted(trials: int) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{trials} trial{'' if trials == 1 else 's'}"


def parse_seconds(text: str) -> float:
    """``90m``, ``8h``, ``2d`` or plain seconds."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"--timeout {text}: give a time above 0 such as 90m, 8h or 3600 (seconds)")
    return seconds


def state(trial: "FrozenTrial") -> str:
    """One word for where a trial is: complete, pruned, running, waiting, failed, lost or stopped."""
    if trial.state.name != "FAIL":
        return trial.state.name.lower()
    reason = trial.user_attrs.get("notes", {}).get("reason")
    return "lost" if reason is None else STOPPED if reason == STOPPED else "failed"


def tally(trials: Iterable["FrozenTrial"]) -> Tally:
    """Count trials by their state."""
    counts = Counter(state(trial) for trial in trials)
    counts.pop(STOPPED, None)
    return Tally(**counts)


def seconds_spent(trials: Iterable["FrozenTrial"], now: float | None = None) -> float:
    """Seconds in which at least one trial ran: the length of the union of all attempts, pauses left out."""
    now = time.time() if now is None else now
    spans = []
    for trial in trials:
        if "started" in trial.user_attrs:
            end = now if trial.state.name == "RUNNING" else trial.user_attrs.get("seen", trial.user_attrs["started"])
            spans.append((float(trial.user_attrs["started"]), float(end)))
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def failures_in_a_row(trials: Sequence["FrozenTrial"], since: float) -> list["FrozenTrial"]:
    """The latest failed or lost attempts without one that ended in between, newest first, begun after ``since``."""
    found = []
    for trial in reversed(trials):
        if trial.user_attrs.get("started", 0.0) < since or state(trial) in ("running", "waiting", STOPPED):
            continue
        if state(trial) not in ("failed", "lost"):
            break
        found.append(trial)
    return found
