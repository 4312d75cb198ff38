"""Fold runs -> one column a member: out-of-fold probabilities of Training, the mean of the fold models elsewhere.

A column is one member and seed. Each row of its Training probabilities comes from the one fold model that did not see
that row, so a fit on them is as good as one on fresh rows, and there are eight times as many of them as in PublicTest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fer_bench.ensemble.combining import Combined
from fer_bench.ensemble.votes import soft_vote
from fer_bench.errors import UserError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Columns:
    """M columns of one view set; ``runs`` are the indices of the fold runs of each, of ``total`` in all."""

    training: np.ndarray  # (M, N, C)
    labels: np.ndarray  # (N,) of Training
    validation: np.ndarray  # (M, V, C)
    test: np.ndarray  # (M, K, C)
    runs: tuple[tuple[int, ...], ...]
    total: int

    def averaged(self, rows: np.ndarray) -> np.ndarray:
        """Average predictions of all fold runs (runs, K, C) to columns (M, K, C)."""
        return np.stack([soft_vote(rows[list(runs)]) for runs in self.runs])

    def spread(self, combined: Combined) -> Combined:
        """Say of fold runs what ``combined`` says of columns: those of one column share its weight alike."""
        weights, chosen = combined.weights, combined.chosen
        if weights is not None:
            shares, weights = weights, np.zeros(self.total)
            for share, runs in zip(shares, self.runs, strict=True):
                weights[list(runs)] = share / len(runs)
        if chosen is not None:
            chosen = tuple(sorted(run for column in chosen for run in self.runs[column]))
        return replace(combined, weights=weights, chosen=chosen)


def columns(trainings: Sequence[str], units: Sequence[str], stored: Sequence[Arrays], view: str) -> Columns:
    """Gather fold runs by their unit (member and seed); columns stand in the order of their first training id.

    Raises:
        UserError: a unit whose folds do not hold out every row of Training once, labels that differ, a view set that
            is not stored.
    """
    groups: dict[str, list[int]] = {}
    for run, unit in sorted(enumerate(units), key=lambda pair: trainings[pair[0]]):
        groups.setdefault(unit, []).append(run)
    folds = {unit: [stored[run] for run in runs] for unit, runs in groups.items()}
    labels = [assembled(runs, "Training/labels", unit) for unit, runs in folds.items()]
    if not all(np.array_equal(found, labels[0]) for found in labels):
        raise UserError("Training/labels differ among the members; they were not made on the same data")
    training = np.stack([assembled(runs, f"Training/{view}", unit) for unit, runs in folds.items()])
    parts = [
        np.stack([soft_vote([_of(run, f"{part}/{view}", unit) for run in runs]) for unit, runs in folds.items()])
        for part in ("PublicTest", "PrivateTest")
    ]
    runs = tuple(tuple(runs) for runs in groups.values())
    return Columns(training, labels[0].astype(np.int64), parts[0], parts[1], runs, len(units))


def assembled(folds: Sequence[Arrays], key: str, unit: str) -> np.ndarray:
    """Put what the folds of a unit hold out back into the order of Training: labels (N,) or probabilities (N, C)."""
    rows = np.concatenate([_of(fold, "Training/rows", unit) for fold in folds])
    order = np.argsort(rows)
    if not np.array_equal(rows[order], np.arange(len(rows))):
        raise UserError(f"{unit}: its {len(folds)} fold runs do not hold out every row of Training once")
    return np.concatenate([_of(fold, key, unit) for fold in folds])[order]


def _of(fold: Arrays, key: str, unit: str) -> np.ndarray:
    if key not in fold:
        raise UserError(f"{key}: not every fold run of {unit} stores it")
    return fold[key]
