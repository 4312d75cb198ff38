"""Folds of Training: one cut for all members and seeds, so that out-of-fold rows of all of them go together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_bench import records, splits
from fer_bench.config import Member, Suite
from fer_bench.data import Faces

CUT_SEED = 0


@dataclass(frozen=True, eq=False)
class Fold:
    """One of ``of`` folds, counted from 0: ``held`` are its rows of Training (n,), counted from 0 in official order."""

    of: int
    index: int
    held: np.ndarray

    @property
    def identity(self) -> dict[str, Any]:
        """Return what enters the identity of a run on this fold: the rows themselves, however they were drawn."""
        rows = records.rows_sha256(self.held)
        return {"of": self.of, "index": self.index, "seed": CUT_SEED, "rows_sha256": rows}


def cut(faces: Faces, of: int) -> tuple[Fold, ...]:
    """Deal Training to folds: stratified, twins together, the same on every call."""
    ids = splits.folds(*splits.part(faces, "Training"), of, CUT_SEED)
    return tuple(Fold(of, index, np.flatnonzero(ids == index)) for index in range(of))


def cuts(suite: Suite, faces: Faces) -> dict[int, tuple[Fold, ...]]:
    """Return the folds that the members of a suite ask for, by their number."""
    return {of: cut(faces, of) for of in sorted({member.folds for member in suite.members if member.folds})}


def members_and_folds(
    suite: Suite, cuts: Mapping[int, Sequence[Fold]], seeds: Sequence[int]
) -> list[tuple[Member, int, Fold | None]]:
    """List what a suite trains: every member on all of Training, the first seed of all first, then their folds."""
    whole = [(member, seed, None) for seed in seeds for member in suite.members]
    split = [(m, seed, fold) for seed in seeds for m in suite.members if m.folds for fold in cuts[m.folds]]
    return [*whole, *((as_fold_run(member), seed, fold) for member, seed, fold in split)]


def as_fold_run(member: Member) -> Member:
    """Return the member with the view sets that its fold runs store."""
    return member.model_copy(update={"views": member.fold_views or member.views})


def fitting_rows(faces: Faces, fold: Fold | None) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of Training, without those that the fold holds out."""
    images, labels = splits.part(faces, "Training")
    if fold is None:
        return images, labels
    kept = ~np.isin(np.arange(len(labels)), fold.held)
    return images[kept], labels[kept]


def held_out_rows(faces: Faces, fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the rows of Training that the fold holds out."""
    images, labels = splits.part(faces, "Training")
    return images[fold.held], labels[fold.held]
