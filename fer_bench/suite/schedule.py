"""Which run goes next, and within a time budget which one gives way.

The suite's order is its order of value. Without a budget runs go one by one. With one, the next is the first whose
estimate fits into the time that is left; what does not fit is left for a later call. A run that turns out slower than
its estimate gives way, after a checkpoint, to one that still fits, and to nothing before the budget ends. Where nothing
fits from the start the first one works until the budget ends, so that calls repeated get through every suite.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fer_bench.suite.budget import Budget, Pace
from fer_bench.suite.plan import Run
from fer_bench.train import Progress

SLACK = 1.1
"""A run gives way only where it needs this many times the time left: its own pace wavers."""


class Forecast(Protocol):
    """What a schedule asks about the time of runs."""

    beside: int
    """Runs whose steps other processes make for this call just now; the schedule says how many."""

    def known(self, run: Run) -> float | None:
        """Say how long a run will take where that needs no measuring; 0 where nothing is to be trained."""

    def seconds(self, run: Run) -> float:
        """Say how long the training and scoring of a run will take from where it is."""

    def note_finished(self, run: Run) -> None:
        """Note that the board has a run: under another name it takes no time, with other views no training."""

    def learn(self, run: Run, seconds: float, share: float) -> None:
        """Note that ``share`` of a run's work took so long."""


@dataclass
class Schedule:
    """Hands out the runs of a plan."""

    pending: list[Run]
    budget: Budget | None = None
    forecast: Forecast | None = None
    put_back: list[Run] = field(default_factory=list)
    """Runs that were begun and gave way, in this call."""
    has_begun: bool = False

    def take(self, running: Collection[Run] = ()) -> Run | None:
        """Hand out the next run, or None where none may start now; runs of the same training go one by one."""
        busy = {run.training_id for run in running}
        free = [run for run in self.pending if run.training_id not in busy]
        found = next((run for run in free if self._fits(run)), None)
        if found is None and free and not (self.has_begun or running) and self.budget and self.budget.left() > 0:
            found = free[0]
        if found is not None:
            self.pending.remove(found)
            self.has_begun = self.has_begun or self.forecast is None or self.forecast.known(found) != 0
        return found

    def note_beside(self, watches: Collection["Watch"]) -> None:
        """Note which runs other processes do: one that makes steps slows down what is measured beside it."""
        if self.forecast is not None:
            self.forecast.beside = sum(watch.seconds is not None for watch in watches)

    def give_back(self, run: Run) -> None:
        """Note that a run was stopped at its checkpoint."""
        self.put_back.append(replace(run, state="resume"))

    def note_finished(self, run: Run, record: dict[str, Any]) -> None:
        """Note the record of a run."""
        if self.forecast is not None and record["kind"] != "failure":
            self.forecast.note_finished(run)

    def left(self, order: Sequence[Run]) -> list[tuple[Run, float | None]]:
        """What is left for a later call, in the order of the plan, with the seconds that each takes where known."""
        places = {run.title: i for i, run in enumerate(order)}
        rest = sorted([*self.pending, *self.put_back], key=lambda run: places[run.title])
        return [(run, self.forecast.known(run) if self.forecast else None) for run in rest]

    def must_stop(self, run: Run, seconds: float | None) -> bool:
        """Whether a run that needs ``seconds`` more (None: not known yet) has to stop now."""
        if self.budget is None or self.forecast is None:
            return False
        left = self.budget.left()
        if left <= 0:
            return True
        if seconds is None or seconds <= SLACK * left:
            return False
        others = (other for other in self.pending if other.training_id != run.training_id)
        return any(self.forecast.known(other) != 0 and self._fits(other) for other in others)

    def watch(self, run: Run, report: Callable[[Progress], None] = lambda where: None) -> "Watch":
        """Give the watch over one run; what it is told goes on to ``report``."""
        return Watch(self, run, report)

    def _fits(self, run: Run) -> bool:
        if self.budget is None or self.forecast is None or self.forecast.known(run) == 0:
            return True
        left = self.budget.left()
        return left > 0 and self.forecast.seconds(run) <= left


@dataclass
class Watch:
    """Follows the steps of one run; ``seconds`` is what it still needs, None while that is not known."""

    schedule: Schedule
    run: Run
    report: Callable[[Progress], None]
    pace: Pace = field(default_factory=Pace)
    seconds: float | None = None
    looked: float = 0.0

    def __call__(self, where: Progress) -> None:
        """Note how many of a run's steps are made."""
        self.report(where)
        done, total = where.steps_made
        self.seconds = self.pace.left(done, total, time.monotonic())
        if self.seconds is not None:
            self.note(self.seconds, 1 - done / total)

    def note(self, seconds: float, share: float) -> None:
        """Note that a run needs ``seconds`` for the ``share`` of its work that is left."""
        self.seconds = seconds
        if self.schedule.forecast is not None:
            self.schedule.forecast.learn(self.run, seconds, share)

    def must_stop(self) -> bool:
        """Whether the run has to stop; a run that is slow is looked at once a second."""
        now = time.monotonic()
        if now - self.looked >= 1:
            self.looked = now
            return self.schedule.must_stop(self.run, self.seconds)
        return self.schedule.must_stop(self.run, None)
