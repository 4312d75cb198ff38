"""The stored arrays of records -> what a method makes of them, the same for who writes a record and who checks it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from fer_bench.ensemble.combining import Combined, Fitted, chosen_of, combine, fit, is_fitted
from fer_bench.ensemble.outoffold import columns
from fer_bench.ensemble.stacking import Predict
from fer_bench.errors import UserError
from fer_bench.records import SUBMITTED


@dataclass(frozen=True)
class Recipe:
    """How an ensemble is made: what an ensemble's identity says besides its members and its data."""

    method: str = "soft-vote"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    temperature: str = "none"
    seed: int = 0
    fit_on: str = "PublicTest"

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> "Recipe":
        """Read it from the identity of a record."""
        return cls(**{known.name: identity[known.name] for known in fields(cls) if known.name in identity})

    @property
    def identity(self) -> dict[str, Any]:
        """Return what enters the identity; what was added to it later stays out while it is neutral."""
        later = {"temperature": self.temperature, "seed": self.seed, "fit_on": self.fit_on}
        neutral = {"temperature": "none", "seed": 0, "fit_on": "PublicTest"}
        kept = {key: value for key, value in later.items() if value != neutral[key]}
        return {"method": self.method, "parameters": dict(self.parameters)} | kept

    @property
    def of_folds(self) -> bool:
        """Whether the members are fold runs."""
        return self.method == "fold-average" or self.fit_on == "Training"

    @property
    def is_fitted(self) -> bool:
        """Whether anything is fitted."""
        return is_fitted(self.method, self.temperature)

    @property
    def selection(self) -> str:
        """Return how the combination was chosen, in the words of a record."""
        if not self.is_fitted:
            return "declared in the suite"
        out_of_fold = self.fit_on == "Training"
        return "fitted out-of-fold on Training" if out_of_fold else "fitted on PublicTest, cross-fitted there"


def combine_records(
    recipe: Recipe,
    trainings: Sequence[str],
    stored: Sequence[Mapping[str, np.ndarray]],
    view: str,
    units: Sequence[str] = (),
) -> Combined:
    """Combine one view set of members' stored arrays, fitted as the recipe says, applied to PrivateTest.

    What is fitted sees the members in the order of ``trainings``, their training ids, so that a record follows from its
    identity, in which they have no other order, and more view sets change none; ``weights`` and ``chosen`` are in the
    order given. ``units`` says of each fold run which member and seed it is of; only a recipe of fold runs asks for it.

    Raises:
        UserError: members whose labels or shapes differ, or fold runs that do not make up Training.
    """
    labels = _shared(stored, "PublicTest/labels")
    if recipe.of_folds:
        found = columns(trainings, units, stored, view)
        fitted = _fit(recipe, found.training, found.labels)
        training = None if recipe.is_fitted else fitted.predict(found.training)
        own, test = fitted.predict(found.validation), fitted.predict(found.test)
        chosen = chosen_of(recipe.method, fitted)
        return found.spread(Combined(own, test, fitted.weights, chosen, training, found.labels))
    order = _order(recipe, trainings)
    validation, test = (_stacked(stored, f"{part}/{view}")[order] for part in ("PublicTest", "PrivateTest"))
    how = recipe.method, recipe.parameters, recipe.seed, recipe.temperature
    return _reordered(combine(how[0], validation, labels, test, *how[1:]), order)


def fit_records(
    recipe: Recipe,
    trainings: Sequence[str],
    stored: Sequence[Mapping[str, np.ndarray]],
    view: str,
    units: Sequence[str] = (),
) -> Predict:
    """Fit one view set on all that the recipe fits on; returns (M, K, C) -> (K, C) for members in the order given."""
    if recipe.of_folds:
        found = columns(trainings, units, stored, view)
        fitted = _fit(recipe, found.training, found.labels)
        return lambda new: fitted.predict(found.averaged(new))
    order = _order(recipe, trainings)
    labels = _shared(stored, "PublicTest/labels").astype(np.int64)
    whole = _fit(recipe, _stacked(stored, f"PublicTest/{view}")[order], labels)
    return lambda new: whole.predict(new[order])


def passes(members: Sequence[Mapping[str, Any]], combined: Combined, view: str) -> int:
    """Forward passes an image: the sum over the records of members that have a say, in the order of the weights."""
    weights = np.ones(len(members)) if combined.weights is None else combined.weights
    taken = (member["passes"] for member, weight in zip(members, weights, strict=True) if weight > 0)
    return sum(found[SUBMITTED] if SUBMITTED in found else found[view] for found in taken)


def _fit(recipe: Recipe, probabilities: np.ndarray, labels: np.ndarray) -> Fitted:
    return fit(recipe.method, probabilities, labels, recipe.parameters, recipe.seed, recipe.temperature)


def _order(recipe: Recipe, trainings: Sequence[str]) -> np.ndarray:
    return np.argsort(trainings, kind="stable") if recipe.is_fitted else np.arange(len(trainings))


def _reordered(combined: Combined, order: np.ndarray) -> Combined:
    weights, chosen = combined.weights, combined.chosen
    if weights is not None:
        weights = weights[np.argsort(order)]
    if chosen is not None:
        chosen = tuple(sorted(int(order[i]) for i in chosen))
    return replace(combined, weights=weights, chosen=chosen)


def _shared(stored: Sequence[Mapping[str, np.ndarray]], key: str) -> np.ndarray:
    if not all(np.array_equal(member[key], stored[0][key]) for member in stored):
        raise UserError(f"{key} differ among the members; they were not made on the same data")
    return stored[0][key]


def _stacked(stored: Sequence[Mapping[str, np.ndarray]], key: str) -> np.ndarray:
    found = [rows for member in stored if (rows := _of_view(member, key)) is not None]
    if len(found) < len(stored) or len({rows.shape for rows in found}) != 1:
        raise UserError(f"{key}: not every member stores it with that shape")
    return np.stack(found)


def _of_view(stored: Mapping[str, np.ndarray], key: str) -> np.ndarray | None:
    """The probabilities of ``PART/VIEW``; a submitted row has one set, which stands for every view set."""
    return stored.get(key, stored.get(f"{key.split('/')[0]}/{SUBMITTED}"))
