"""The end of a study in rows and words."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fer_bench.tune.budget import MOST_FAILURES, counted, state
from fer_bench.tune.display import duration, percent
from fer_bench.tune.result import FEWEST, Result
from fer_bench.tune.space import Scalar, Space, values_of
from fer_bench.tune.suitefile import in_points

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from fer_bench.tune.claims import Verdict

WORDS = {
    "done": "every trial of the budget has ended",
    "time": "the time is spent",
    "exhausted": "the space has no further points",
    "stopped": "stopped; the same command goes on from here",
    "failures": f"given up, since {MOST_FAILURES} trials in a row failed",
}


def settings(result: Result, space: Space) -> list[tuple[str, str, str, str]]:
    """A row for the scores, then one a searched key: its name, the default value, the best one, its importance."""
    if result.best is None:
        return []
    start = space.complete({})
    best = values_of(result.best.params)
    weights = Counter[str]()
    for name, share in result.importances.items():
        weights[name.split("[")[0]] += share  # type: ignore[assignment]  # a Counter of shares
    keys = sorted(space.dimensions, key=lambda key: -weights[key])
    default = percent(result.default.value) if result.default else "-"
    scores = ("accuracy on the rows held out", default, percent(result.best.value), "")
    return [scores, *((key, _cell(start, key), _cell(best, key), _share(weights[key])) for key in keys)]


def _cell(values: dict[str, Scalar], key: str) -> str:
    return str(values[key]) if key in values else "-"


def _share(weight: float) -> str:
    return f"{weight:.2f}" if weight else ""


def lines(result: Result, verdict: "Verdict", failures: Sequence["FrozenTrial"]) -> list[str]:
    """Why it ended, what it cost, what the gain is worth, and what failed."""
    counts = result.counts
    cost = f"{counted(counts.ended)} ended, {counts.pruned} of them pruned, in {duration(result.seconds)} of work"
    said = [f"{WORDS[verdict]}: {cost}", *_worth(result)]
    if counts.complete < FEWEST and result.best is not None:
        said.append(f"importances are reckoned from {FEWEST} complete trials on; there are {counts.complete}")
    return said + _failures(failures)


def _failures(failures: Sequence["FrozenTrial"]) -> list[str]:
    """The three most frequent causes, each in the words of its first trial."""
    alike: dict[str, list[FrozenTrial]] = {}
    for trial in failures:
        alike.setdefault(re.sub(r"[0-9a-f]{8,}|[0-9.]+", "#", _cause(trial)), []).append(trial)
    frequent = sorted(alike.values(), key=len, reverse=True)[:3]
    return [f"failed {len(found)} x, first in trial {found[0].number}: {_cause(found[0])}" for found in frequent]


def _worth(result: Result) -> list[str]:
    if result.best is None:
        return ["no trial is complete, so there is nothing to compare"]
    if result.default_won:
        return [f"no setting beat the default one, trial {result.best.number}"]
    if result.comparison is None:
        return [f"trial {result.best.number} is the best; the default setting is not complete"]
    gain = f"trial {result.best.number} minus default: {in_points(result.comparison)}"
    flattered = "a paired bootstrap interval and an exact McNemar test, both flattered by the choice among many"
    return [f"{gain} ({result.comparison.rows:,} rows; {flattered})"]


def _cause(trial: "FrozenTrial") -> str:
    notes = trial.user_attrs.get("notes", {})
    if state(trial) == "lost":
        return "its worker died"
    return f"{notes['reason']}: {notes['message']}" if notes.get("message") else notes["reason"]
