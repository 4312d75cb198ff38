"""What a study found: the best setting against the default one on the same rows, and which parameters mattered."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fer_bench import metrics
from fer_bench.config import Member
from fer_bench.tune.budget import Tally, seconds_spent, state, tally
from fer_bench.tune.space import Space, Values, member_with, values_of
from fer_bench.tune.study import Opened
from fer_bench.tune.worker import unpack

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

FEWEST = 10
"""Complete trials below which importances are noise alone: half of them are the five best that PED-ANOVA needs."""


@dataclass(frozen=True)
class Comparison:
    """The best trial minus the default one, paired over the scored rows: a difference with its 95 % interval."""

    difference: float
    low: float
    high: float
    p: float
    rows: int


@dataclass(frozen=True)
class Result:
    """A study as it stands; ``best`` and ``default`` are None while no trial of that kind is complete."""

    name: str
    digest: str
    pruner: str
    counts: Tally
    seconds: float
    best: "FrozenTrial | None"
    default: "FrozenTrial | None"
    comparison: Comparison | None
    importances: dict[str, float]

    @property
    def default_won(self) -> bool:
        """Whether nothing beat the default setting."""
        return self.best is not None and self.default is not None and self.best.number == self.default.number


def best_of(trials: Sequence["FrozenTrial"]) -> "FrozenTrial | None":
    """The complete trial of the highest value: the default setting where others only reach it, else the first one."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return max(complete, key=lambda t: (t.value, t.user_attrs.get("origin") == "default", -t.number), default=None)


def conclude(this: Opened) -> Result:
    """Read what a study has found so far."""
    trials = this.trials()
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    best = best_of(trials)
    default = next((trial for trial in complete if trial.user_attrs.get("origin") == "default"), None)
    return Result(
        name=this.plan.name,
        digest=this.plan.digest,
        pruner=this.study.user_attrs["pruner"],
        counts=tally(trials),
        seconds=seconds_spent(trials),
        best=best,
        default=default,
        comparison=_compare(best, default) if best and default and best is not default else None,
        importances=importances(this.study, len(complete)),
    )


def _compare(best: "FrozenTrial", default: "FrozenTrial") -> Comparison | None:
    ours, theirs = (trial.user_attrs.get("notes", {}) for trial in (best, default))
    if not ("right" in ours and ours.get("rows") == theirs.get("rows")):
        return None
    a, b = (unpack(notes["right"], notes["rows"]) for notes in (ours, theirs))
    return Comparison(*metrics.paired_bootstrap(a, b), p=metrics.mcnemar_exact(a, b), rows=len(a))


def importances(study: "Study", complete: int) -> dict[str, float]:
    """Share of each parameter in reaching the best tenth of the complete trials, or the best five (PED-ANOVA).

    Empty where the best ones cannot be told from the others, since nothing was important there.
    """
    import optuna

    if complete < FEWEST:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / complete))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # normalize is experimental; parameters that never varied
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    total = sum(found.values())
    return {name: share / total for name, share in found.items()} if total > 0 else {}


def changes(space: Space, values: Values) -> dict[str, tuple[Any, Any]]:
    """Key -> (default, found) of every searched key in which a point differs from the default setting."""
    start = space.complete({})
    return {key: (start.get(key), value) for key, value in values.items() if start.get(key) != value}


def tuned_member(space: Space, trial: "FrozenTrial") -> Member:
    """The setting of a trial."""
    return member_with(space.member, values_of(trial.params))


def rows(trials: Sequence["FrozenTrial"]) -> list[dict[str, Any]]:
    """Every trial as plain data: what the figures are drawn from, and what is worth committing."""
    found = []
    for trial in trials:
        notes = {key: value for key, value in trial.user_attrs.get("notes", {}).items() if key != "right"}
        row = {"number": trial.number, "state": state(trial), "origin": trial.user_attrs.get("origin")}
        row |= {"value": trial.value if trial.state.name == "COMPLETE" else None, "values": values_of(trial.params)}
        row |= {"steps": {str(step): value for step, value in sorted(trial.intermediate_values.items())}}
        row |= {key: trial.user_attrs[key] for key in ("retry_of", "retries") if key in trial.user_attrs}
        found.append(row | ({"notes": notes} if notes else {}))
    return found
