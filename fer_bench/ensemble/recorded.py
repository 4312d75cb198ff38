"""The stored arrays of records -> what a method makes of them, the same for who writes a record and who checks it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fer_bench.ensemble.combining import Combined, combine, fit, is_fitted
from fer_bench.ensemble.stacking import Predict
from fer_bench.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """How an ensemble is made: what an ensemble's identity says besides its members and its data."""

    method: str = "soft-vote"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    temperature: str = "none"
    seed: int = 0

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> "Recipe":
        """Read it from the identity of a record."""
        known = {key: identity[key] for key in ("method", "parameters", "temperature", "seed") if key in identity}
        return cls(**known)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what enters the identity; what was added to it later stays out while it is neutral."""
        later = {"temperature": self.temperature, "seed": self.seed}
        neutral = {"temperature": "none", "seed": 0}
        kept = {key: value for key, value in later.items() if value != neutral[key]}
        return {"method": self.method, "parameters": dict(self.parameters)} | kept

    @property
    def is_fitted(self) -> bool:
        """Whether anything is fitted on PublicTest."""
        return is_fitted(self.method, self.temperature)

    @property
    def selection(self) -> str:
        """Return how the combination was chosen, in the words of a record."""
        return "fitted on PublicTest, cross-fitted there" if self.is_fitted else "declared in the suite"


def combine_records(
    recipe: Recipe, run_ids: Sequence[str], stored: Sequence[Mapping[str, np.ndarray]], view: str
) -> Combined:
    """Combine one view set of members' stored arrays, fitted on PublicTest, applied to PrivateTest.

    What is fitted sees the members in the order of their run ids, so that a record follows from its identity, in which
    they have no other order; ``weights`` and ``chosen`` are in the order given.

    Raises:
        UserError: members whose labels or shapes differ.
    """
    order = _order(recipe, run_ids)
    labels = _shared(stored, "PublicTest/labels")
    validation, test = (_stacked(stored, f"{part}/{view}")[order] for part in ("PublicTest", "PrivateTest"))
    how = recipe.method, recipe.parameters, recipe.seed, recipe.temperature
    return _reordered(combine(how[0], validation, labels, test, *how[1:]), order)


def fit_records(
    recipe: Recipe, run_ids: Sequence[str], stored: Sequence[Mapping[str, np.ndarray]], view: str
) -> Predict:
    """Fit one view set on all of PublicTest; returns (M, K, C) -> (K, C) for the members in the order given."""
    order = _order(recipe, run_ids)
    labels = _shared(stored, "PublicTest/labels").astype(np.int64)
    validation = _stacked(stored, f"PublicTest/{view}")[order]
    fitted = fit(recipe.method, validation, labels, recipe.parameters, recipe.seed, recipe.temperature)
    return lambda new: fitted.predict(new[order])


def _order(recipe: Recipe, run_ids: Sequence[str]) -> np.ndarray:
    return np.argsort(run_ids, kind="stable") if recipe.is_fitted else np.arange(len(run_ids))


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
    shapes = {member[key].shape if key in member else None for member in stored}
    if len(shapes) != 1 or None in shapes:
        raise UserError(f"{key}: not every member stores it with that shape")
    return np.stack([member[key] for member in stored])
