"""Any method by its name: fitted on validation rows, scored there by cross-fitting, applied to the test rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fer_bench.ensemble.greedy import greedy_counts
from fer_bench.ensemble.stacking import Predict, fit_logistic, fit_trees
from fer_bench.ensemble.temperature import cooled, fit_temperature
from fer_bench.ensemble.votes import geometric_mean, hard_vote, soft_vote
from fer_bench.ensemble.weights import fit_weights
from fer_bench.errors import UserError

FOLDS = 5
DECLARED = {
    "soft-vote": soft_vote,
    "hard-vote": hard_vote,
    "geometric-mean": geometric_mean,
    "fold-average": soft_vote,
}


@dataclass(frozen=True, eq=False)
class Combined:
    """What a method makes of its members.

    ``validation`` (N, C) is what the method is scored by on PublicTest: where it was fitted there, each fifth of the
    rows is predicted by a fit on the others. ``test`` (K, C) comes from the fit on all rows. ``weights`` (M,) sum to 1
    and are None for a stack; ``chosen`` are the indices of the members that a greedy selection picked, else None.
    ``training`` (T, C) is out-of-fold, with its labels (T,), for an average of fold models alone.
    """

    validation: np.ndarray
    test: np.ndarray
    weights: np.ndarray | None
    chosen: tuple[int, ...] | None
    training: np.ndarray | None = None
    training_labels: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Fitted:
    """A method ready to predict: (M, K, C) -> (K, C)."""

    predict: Predict
    weights: np.ndarray | None = None


Fit = Callable[[np.ndarray, np.ndarray], Fitted]


def is_fitted(method: str, temperature: str = "none") -> bool:
    """Whether anything is fitted on the validation rows."""
    return method not in DECLARED or temperature != "none"


def combine(
    method: str,
    validation: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    parameters: Mapping[str, Any],
    seed: int,
    temperature: str = "none",
) -> Combined:
    """Combine validation (M, N, C) with labels (N,), and test (M, K, C); see ``config.PARAMETERS`` for parameters.

    ``temperature`` is none, before (each member is calibrated first) or after (the combination is). ``seed`` decides
    the folds and what a method draws. The test rows decide nothing.
    """
    labels = np.asarray(labels).astype(np.int64)
    _require_fit(validation, labels, test)
    fitted = fit(method, validation, labels, parameters, seed, temperature)
    if is_fitted(method, temperature):
        own = cross_fitted(lambda p, y: fit(method, p, y, parameters, seed, temperature), validation, labels, seed)
    else:
        own = fitted.predict(validation)
    return Combined(own, fitted.predict(test), fitted.weights, chosen_of(method, fitted))


def chosen_of(method: str, fitted: Fitted) -> tuple[int, ...] | None:
    """Return the indices of the members that a greedy selection picked; None for what picks none."""
    picked = method == "greedy" and fitted.weights is not None
    return tuple(np.flatnonzero(np.asarray(fitted.weights)).tolist()) if picked else None


def fit(
    method: str,
    probabilities: np.ndarray,
    labels: np.ndarray,
    parameters: Mapping[str, Any],
    seed: int,
    temperature: str = "none",
) -> Fitted:
    """Fit a method on all of (M, N, C) and labels (N,)."""
    if temperature == "before":
        return _cooled_before(method, probabilities, labels, parameters, seed)
    if temperature == "after":
        return _cooled_after(method, probabilities, labels, parameters, seed)
    return _fit_plain(method, probabilities, labels, parameters, seed)


def _fit_plain(method: str, p: np.ndarray, labels: np.ndarray, parameters: Mapping[str, Any], seed: int) -> Fitted:
    if method in DECLARED:
        return Fitted(DECLARED[method], np.full(len(p), 1 / len(p)))
    if method == "weighted-vote":
        return _weighted(fit_weights(p, labels, **parameters))
    if method == "greedy":
        return _weighted(greedy_counts(p, labels, np.random.default_rng(seed), **parameters))
    if method == "stack-logistic":
        return Fitted(fit_logistic(p, labels, **parameters))
    if method == "stack-trees":
        return Fitted(fit_trees(p, labels, seed, **parameters))
    raise UserError(f"method: {method!r} is no way to combine members")


def _weighted(weights: np.ndarray) -> Fitted:
    return Fitted(lambda stacked: soft_vote(stacked, weights.tolist()), weights)


def _cooled_before(method: str, p: np.ndarray, labels: np.ndarray, parameters: Mapping[str, Any], seed: int) -> Fitted:
    """Calibrate each member, then fit on the calibrated members."""
    temperatures = [fit_temperature(member, labels) for member in p]

    def cool(stacked: np.ndarray) -> np.ndarray:
        return np.stack([cooled(member, t) for member, t in zip(stacked, temperatures, strict=True)])

    inner = _fit_plain(method, cool(p), labels, parameters, seed)
    return replace(inner, predict=lambda stacked: inner.predict(cool(stacked)))


def _cooled_after(method: str, p: np.ndarray, labels: np.ndarray, parameters: Mapping[str, Any], seed: int) -> Fitted:
    """Calibrate the combination, by what a fitted one predicts for rows that it was not fitted on."""
    inner = _fit_plain(method, p, labels, parameters, seed)
    if is_fitted(method):
        own = cross_fitted(lambda a, b: _fit_plain(method, a, b, parameters, seed), p, labels, seed)
    else:
        own = inner.predict(p)
    temperature = fit_temperature(own, labels)
    return replace(inner, predict=lambda stacked: cooled(inner.predict(stacked), temperature))


def cross_fitted(fit_on: Fit, probabilities: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Predict each fold of (M, N, C) with the fit on the other folds, (N, C)."""
    found = np.empty(probabilities.shape[1:])
    fold = stratified_folds(labels, seed)
    for number in np.unique(fold):
        held = fold == number
        found[held] = fit_on(probabilities[:, ~held], labels[~held]).predict(probabilities[:, held])
    return found


def stratified_folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """Deal the rows to 5 folds, (N,): shuffled, then class by class, so that every fold has its share of each."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[by_class] = np.arange(len(labels)) % FOLDS
    return folds


def _require_fit(validation: np.ndarray, labels: np.ndarray, test: np.ndarray) -> None:
    shapes = [array.shape for array in (validation, test)]
    if validation.ndim != 3 or test.ndim != 3 or validation.shape[::2] != test.shape[::2]:
        raise ValueError(f"validation must be (M, N, C) and test (M, K, C); got {shapes[0]} and {shapes[1]}")
    if labels.shape != validation.shape[1:2]:
        raise ValueError(f"labels must be (N,); got {labels.shape} for {shapes[0]}")
