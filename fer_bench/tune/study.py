"""One study: its identity, how it is opened, how points get into it, and how they are tried again."""

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_bench.errors import UserError
from fer_bench.files import canonical_json, sha256_bytes
from fer_bench.records import differing_keys
from fer_bench.tune import storage
from fer_bench.tune.budget import Budget, counted, tally
from fer_bench.tune.space import Space, Values

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

PRUNERS = ("median", "halving", "hyperband", "none")
FEW, MANY = 20, 60
"""Trials from which successive halving, and from which Hyperband pays: its four brackets take 40 trials to fill."""
MOST_RETRIES = 2


@dataclass(frozen=True)
class Plan:
    """What a study is and where it lives; plain data that travels to the workers."""

    title: str
    """What is tuned, as part of a name: lower case, digits, dots and dashes."""
    question: dict[str, Any]
    """All that decides what a trial's value means; JSON."""
    space: Space
    steps: int
    """The last step that a trial reports."""
    place: storage.Place
    runs_dir: Path
    budget: Budget
    pruner: str | None = None
    beat: int = storage.BEAT
    grace: int = storage.GRACE

    @property
    def identity(self) -> dict[str, Any]:
        """Question and space."""
        return self.question | self.space.plain()

    @property
    def digest(self) -> str:
        """Sha256 in hex of question and space: another space is another study."""
        return sha256_bytes(canonical_json(self.identity))

    @property
    def name(self) -> str:
        """The study's name in its storage."""
        return f"{self.title}-{self.digest[:12]}"

    @property
    def folder(self) -> Path:
        """Where its checkpoints and figures are."""
        return self.runs_dir / "tune" / self.name


@dataclass(frozen=True)
class Opened:
    """A study of this process."""

    plan: Plan
    storage: "BaseStorage"
    study: "Study"

    def trials(self) -> list["FrozenTrial"]:
        """All trials as they are now, by number."""
        return self.study.get_trials(deepcopy=False)


@contextlib.contextmanager
def opened(plan: Plan) -> Iterator[Opened]:
    """Open a study, made first where there is none.

    Raises:
        UserError: a storage that cannot be used, or does not answer while the block works with it.
    """
    import optuna

    store = storage.open_storage(plan.place, beat=plan.beat, grace=plan.grace, on_stale=try_again)
    try:
        with storage.locked(plan.place, plan.name):
            study = optuna.create_study(
                storage=store,
                study_name=plan.name,
                direction="maximize",
                sampler=optuna.samplers.RandomSampler(),  # samples nothing: see propose
                load_if_exists=True,
            )
            _set_up(plan, study)
        study.pruner = make_pruner(study.user_attrs["pruner"], plan.steps)
        yield Opened(plan, store, study)
    except storage.outages() as error:
        raise UserError(
            f"--storage {plan.place.shown}: does not answer ({storage.reason(plan.place, error)})"
        ) from None
    finally:
        storage.close(store)


def _set_up(plan: Plan, study: "Study") -> None:
    if "identity" not in study.user_attrs:
        study.set_user_attr("identity", plan.identity)
    if plan.pruner or "pruner" not in study.user_attrs:
        study.set_user_attr("pruner", plan.pruner or choose_pruner(plan.budget.trials))


def nearest_other(this: Opened) -> str | None:
    """Say in what the most similar study of the same title in the storage differs, and how many more there are."""
    import optuna

    found = []
    for name in optuna.get_all_study_names(this.storage):
        if name == this.plan.name or not re.fullmatch(rf"{re.escape(this.plan.title)}-[0-9a-f]{{12}}", name):
            continue
        study = optuna.load_study(study_name=name, storage=this.storage)
        changes = differing_keys(study.user_attrs.get("identity", {}), this.plan.identity)
        found.append((len(changes), name, tally(study.get_trials(deepcopy=False)).ended, changes))
    if not found:
        return None
    _, name, ended, changes = min(found)
    told = [re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", change) for change in changes[:3]]
    more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
    further = f"; further ones: {len(found) - 1}" if len(found) > 1 else ""
    return f"{name} ({counted(ended)} ended) differs in {'; '.join(told)}{more}{further}"


def choose_pruner(trials: int | None) -> str:
    """Successive halving and Hyperband need many trials to compare; few, or an unknown number, take the median."""
    if trials is None or trials < FEW:
        return "median"
    return "halving" if trials < MANY else "hyperband"


def make_pruner(name: str, steps: int) -> "BasePruner":
    """A pruner by its name. The first quarter of the steps decides nothing: a schedule's start says little.

    A quarter is rounded up: of 5 epochs, the first had next to nothing to do with the last (benchmark/LOG.md).
    """
    from optuna import pruners

    first = math.ceil(steps / 4)
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=first)
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=3)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=first, max_resource=steps, reduction_factor=3)
    if name == "none":
        return pruners.NopPruner()
    raise UserError(f"--pruner: unknown {name!r}; use auto, {', '.join(PRUNERS)}")


def key_of(parameters: Values) -> str:
    """A point as a text that is equal for equal points."""
    return canonical_json(parameters).decode()


def add(study: "Study", space: Space, values: Values, origin: str) -> None:
    """Put a point into the storage, to be claimed; ``origin`` is default, known or sampled."""
    from optuna.trial import TrialState, create_trial

    parameters, distributions = space.parameters(values)
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=parameters,
            distributions=distributions,
            user_attrs={"origin": origin},
        )
    )


def try_again(study: "Study", trial: "FrozenTrial", *, counted: bool = True) -> None:
    """Put a trial's point back, with what it reported, unless its worker died too often already."""
    from optuna.trial import TrialState, create_trial

    retries = trial.user_attrs.get("retries", 0) + counted
    if retries > MOST_RETRIES or not trial.params:
        return
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={
                "origin": trial.user_attrs.get("origin", "sampled"),
                "retries": retries,
                "retry_of": trial.user_attrs.get("retry_of", trial.number),
            },
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )
    )
