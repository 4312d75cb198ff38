"""New points: the default setting, what is known, then sampled ones, never one that was there before."""

import warnings
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from fer_bench.files import sha256_bytes
from fer_bench.tune.budget import state
from fer_bench.tune.space import Dimension, Values
from fer_bench.tune.study import Opened, Plan, add, key_of

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

DRAWS = 200
"""Random points after a sampled one that was there before; if none is new, the space has no more."""


def propose(this: Opened, trials: Sequence["FrozenTrial"], since: float) -> bool:
    """Add the next new point to the storage; False where the space has none left.

    The default setting and the known ones go before any sampled one. They are added as late as these, so that a point
    which was stopped, or lost its worker, is gone on with first. Those that failed before this call of the command
    began, at ``since``, are tried again: the result needs them, and what was wrong may have been mended.

    The seed is a function of the study and of the number of its trials, and whatever was tried is refused, so no
    restart and no second worker proposes a point again. Sampling happens beside the storage.
    """
    space, there = this.plan.space, {key_of(trial.params) for trial in trials}
    tried = {key_of(trial.params) for trial in trials if not _failed_before(trial, since)}
    for origin, given in (("default", {}), *(("known", given) for given in space.known)):
        if _add_new(this, space.complete(given), origin, tried):
            return True
    for draw in range(DRAWS):
        seed = int(sha256_bytes(f"{this.plan.digest} {len(trials)} {draw}".encode())[:8], 16)
        values = _sample(this.plan, trials, seed, by_chance=draw > 0)
        if _add_new(this, values, "sampled", there):
            return True
    return False


def _failed_before(trial: "FrozenTrial", since: float) -> bool:
    return state(trial) == "failed" and trial.user_attrs.get("started", since) < since


def _add_new(this: Opened, values: Values, origin: str, there: Container[str]) -> bool:
    """Add a point unless it is one of those that are there."""
    if key_of(this.plan.space.parameters(values)[0]) in there:
        return False
    add(this.study, this.plan.space, values, origin)
    return True


def _sample(plan: Plan, trials: Sequence["FrozenTrial"], seed: int, *, by_chance: bool) -> Values:
    import optuna

    copy = optuna.create_study(direction="maximize", sampler=_sampler(plan, seed, by_chance=by_chance))
    if not by_chance:
        copy.add_trials(trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED", "RUNNING"))
    trial = copy.ask()
    values: Values = {}
    for key, name, dimension in plan.space.active(values):
        values[key] = dimension.tidy(_suggest(trial, name, dimension))
    return values


def _sampler(plan: Plan, seed: int, *, by_chance: bool) -> "BaseSampler":
    """TPE that keeps away from the points that others work on, after a few points by chance."""
    from optuna.samplers import RandomSampler, TPESampler

    if by_chance:
        return RandomSampler(seed=seed)
    chance = 10 if plan.budget.trials is None else min(10, max(4, plan.budget.trials // 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # group is called experimental
        return TPESampler(n_startup_trials=chance, multivariate=True, group=True, constant_liar=True, seed=seed)


def _suggest(trial: "Trial", name: str, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        return trial.suggest_categorical(name, dimension.choices)
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.integer:
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
