"""Who works on what: claims under the study's lock, and the points of workers that are gone.

Every trial begins as a waiting point in the storage, whether it is the default setting, a known one, a sampled one or
one to be tried again, and is claimed from there. So the total holds over any number of workers, and a point is known
from the moment on that somebody works on it.
"""

import contextlib
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from fer_bench.tune import alive, storage
from fer_bench.tune.budget import MOST_FAILURES, STOPPED, Budget, failures_in_a_row, seconds_spent, tally
from fer_bench.tune.points import propose
from fer_bench.tune.study import Opened, try_again

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

Verdict = Literal["wait", "done", "time", "failures", "exhausted", "stopped"]


def claim(this: Opened, since: float, held: contextlib.ExitStack) -> "tuple[Trial, float | None] | Verdict":
    """Take the next point, or say why there is none.

    Args:
        this: the study.
        since: when this call of the command began; failures before it do not count.
        held: keeps the mark that this process works on the trial.

    Returns:
        The trial and the time at which it must stop, or a verdict; "wait" where others still work.
    """
    with storage.locked(this.plan.place, this.plan.name):
        reap(this)
        trials = this.trials()
        verdict = _verdict(this.plan.budget, trials, since)
        if verdict is not None:
            return verdict
        if not tally(trials).waiting and not propose(this, trials, since):
            return "wait" if tally(trials).running else "exhausted"
        return _take(this, held), _deadline(this.plan.budget, trials)


def _verdict(budget: Budget, trials: Sequence["FrozenTrial"], since: float) -> Verdict | None:
    counts = tally(trials)
    if len(failures_in_a_row(trials, since)) >= MOST_FAILURES:
        return "failures"
    if budget.trials is not None and counts.ended >= budget.trials:
        return "done"
    if budget.seconds is not None and seconds_spent(trials) >= budget.seconds - 1:
        return "time"
    if budget.trials is not None and counts.ended + counts.running >= budget.trials:
        return "wait"
    return None


def _deadline(budget: Budget, trials: Sequence["FrozenTrial"]) -> float | None:
    return None if budget.seconds is None else time.time() + budget.seconds - seconds_spent(trials)


def _take(this: Opened, held: contextlib.ExitStack) -> "Trial":
    """Claim the oldest waiting point. A trial without ``started``, set last, is a claim that died half-way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna sends no heartbeats for what is asked and told; beat does
        trial = this.study.ask()
    held.enter_context(alive.mark(this.plan.folder / "alive", trial.number))
    beat(this, trial._trial_id)
    trial.set_user_attr("started", time.time())
    return trial


def beat(this: Opened, trial_id: int) -> None:
    """Say that a trial is worked on."""
    if hasattr(this.storage, "record_heartbeat"):
        this.storage.record_heartbeat(trial_id)
    this.storage.set_trial_user_attr(trial_id, "seen", time.time())


# ---- workers that are gone


def reap(this: Opened) -> None:
    """Fail the trials whose worker is gone, and let their points be tried again. The caller holds the lock."""
    import optuna

    for trial in this.trials():
        if trial.state.name != "RUNNING":
            continue
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):  # it ended meanwhile
            if not _is_worked_on(this, trial):
                this.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                try_again(this.study, trial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental
        optuna.storages.fail_stale_trials(this.study)


def _is_worked_on(this: Opened, trial: "FrozenTrial") -> bool:
    """Whether a running trial has a worker, as far as this process can tell; heartbeats tell the rest."""
    if "started" not in trial.user_attrs:
        return False
    here = alive.is_alive(this.plan.folder / "alive", trial.number)
    if here:
        beat(this, trial._trial_id)
    if here is not None or hasattr(this.storage, "record_heartbeat"):
        return here is not False
    return time.time() - trial.user_attrs["seen"] < this.plan.grace


def put_back(this: Opened, trial: "Trial") -> None:
    """Let a trial that was asked to stop be gone on with later; it counts as no failure and no retry."""
    from optuna.trial import TrialState

    with storage.locked(this.plan.place, this.plan.name):
        trial.set_user_attr("notes", {"reason": STOPPED})
        trial.set_user_attr("seen", time.time())
        this.study.tell(trial, state=TrialState.FAIL)
        frozen = next(found for found in this.trials() if found.number == trial.number)
        try_again(this.study, frozen, counted=False)
