"""What people see while a study runs, all on stderr: a live table on a terminal, a line for each event elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fer_bench.tune.budget import seconds_spent, state, tally
from fer_bench.tune.result import best_of, changes
from fer_bench.tune.space import values_of
from fer_bench.tune.study import Plan

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

MOST_ROWS = 8

Trials = Sequence["FrozenTrial"]


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


def percent(value: float | None) -> str:
    """A value, which is a share, in percent."""
    return "-" if value is None else f"{100 * value:.2f} %"


@contextlib.contextmanager
def showing(plan: Plan, console: Console) -> Iterator[Callable[[Trials], None]]:
    """Give the function that a supervisor tells the trials to."""
    if not console.is_terminal:
        yield Lines(plan, lambda text: console.print(text, markup=False)).show
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield lambda trials: live.update(table(plan, trials, time.time()), refresh=True)


def seconds_left(plan: Plan, trials: Trials, now: float) -> float | None:
    """A guess from the pace so far, never beyond the time limit; None before there is a pace."""
    budget, spent = plan.budget, seconds_spent(trials, now)
    running = (trial for trial in trials if trial.state.name == "RUNNING")
    done = tally(trials).ended + sum(max(trial.intermediate_values, default=0) / plan.steps for trial in running)
    guesses = [budget.seconds - spent] if budget.seconds is not None else []
    if budget.trials is not None and done:
        guesses.append(spent / done * (budget.trials - done))
    return max(0.0, min(guesses)) if guesses else None


def standing(plan: Plan, trials: Trials, now: float) -> str:
    """The study in one line."""
    counts, best = tally(trials), best_of(trials)
    limit = f" of {plan.budget.trials}" if plan.budget.trials is not None else ""
    said = [f"best {percent(best.value)} (trial {best.number})"] if best else []
    said.append(f"{counts.ended}{limit} ended, {counts.pruned} of them pruned, {counts.running} running")
    said += [f"{counts.failed} failed"] if counts.failed else []
    said += [f"{counts.lost} lost"] if counts.lost else []
    left = seconds_left(plan, trials, now)
    return ", ".join(said) + (f", about {duration(left)} left" if left else "")


def point(plan: Plan, trial: "FrozenTrial") -> str:
    """What a trial changes of the default setting."""
    found = changes(plan.space, values_of(trial.params))
    return ", ".join(f"{key.split('.')[-1]} {value}" for key, (_, value) in found.items()) or "the default setting"


def table(plan: Plan, trials: Trials, now: float) -> Group:
    """The live view: where the study stands, the running trials, the best ones so far, the latest pruned ones."""
    rows = Table(box=None, pad_edge=False)
    for name, side in (("trial", "right"), ("state", "left"), ("step", "right"), ("value", "right"), ("time", "right")):
        rows.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]  # rich names its words
    rows.add_column("changes to the default setting", no_wrap=True, overflow="ellipsis", ratio=1)
    running = [trial for trial in trials if trial.state.name == "RUNNING"]
    complete = sorted((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: (-(t.value or 0.0), t.number))
    pruned = [trial for trial in reversed(trials) if trial.state.name == "PRUNED"]
    shown = [*running, *complete[: max(1, MOST_ROWS - len(running))]]
    for trial in [*shown, *pruned[: max(0, MOST_ROWS - len(shown))]]:
        rows.add_row(*_cells(plan, trial, now))
    return Group(Text(standing(plan, trials, now)), rows)


def _cells(plan: Plan, trial: "FrozenTrial", now: float) -> list[Any]:
    step = max(trial.intermediate_values, default=0)
    value = trial.intermediate_values.get(step) if trial.state.name == "RUNNING" else trial.value
    began = trial.user_attrs.get("started", now)
    end = now if trial.state.name == "RUNNING" else trial.user_attrs.get("seen", began)
    return [
        str(trial.number),
        state(trial),
        f"{step}/{plan.steps}",
        percent(value),
        duration(end - began),
        point(plan, trial),
    ]


class Lines:
    """Says each event once."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan, self.say = plan, say
        self.known: dict[int, str] | None = None

    def show(self, trials: Trials) -> None:
        """Compare with what was told before."""
        now = {trial.number: state(trial) for trial in trials}
        for trial in trials:
            word, before = now[trial.number], (self.known or {}).get(trial.number, "waiting")
            if word in (before, "waiting") or self._is_old(word):
                continue
            if before == "waiting" and word != "running":  # it began and ended since the last look
                self.say(f"trial {trial.number} {_event(self.plan, trial, 'running')}")
            self.say(f"trial {trial.number} {_event(self.plan, trial, word)}")
            if word not in ("running", "stopped"):
                self.say(f"  {standing(self.plan, trials, time.time())}")
        self.known = now

    def _is_old(self, word: str) -> bool:
        """Whether an event was there before this command began to look."""
        return self.known is None and word != "running"


def _event(plan: Plan, trial: "FrozenTrial", word: str) -> str:
    notes = trial.user_attrs.get("notes", {})
    took = duration(trial.user_attrs.get("seen", 0.0) - trial.user_attrs.get("started", 0.0))
    if word == "running":
        before = trial.user_attrs.get("retry_of")
        return f"{'begins' if before is None else f'goes on with trial {before}'}: {point(plan, trial)}"
    if word == "complete":
        return f"has {percent(trial.value)} after {took}"
    if word == "pruned":
        return f"{'diverged: ' if notes['reason'] == 'diverged' else 'pruned '}{notes['message']} ({took})"
    if word == "failed":
        return f"failed ({notes.get('reason')}): {notes.get('message')}"
    return "lost its worker" if word == "lost" else "stopped; it goes on from here next time"
