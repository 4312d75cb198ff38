"""Proof of fold runs: their held-out rows make up Training once, with one label a row, and ensembles use all of them.

That the rows are those of ``splits.folds`` needs the images, so the command that trains sees to it: the digest of the
rows is part of a fold run's identity.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import records
from fer_bench.records import stem_of

Record = dict[str, Any]


def fold_problems(board: Path, scored: Sequence[Record]) -> Iterator[str]:
    """Yield what is wrong among fold runs, each proven alone before, and with the ensembles of them."""
    groups: dict[str, list[Record]] = defaultdict(list)
    folds = [record for record in scored if record["kind"] == "fold"]
    for unit, record in zip(records.units(folds), folds, strict=True):
        groups[unit].append(record)
    for unit, runs in groups.items():
        yield from _other_cut(runs) or _not_a_cut(board, unit, runs)
    yield from _other_labels(board, scored)
    for record in scored:
        if record["kind"] == "ensemble":
            yield from _lacking(record, groups)


def _of(run: Record) -> int:
    return run["identity"]["fold"]["of"]


def _other_cut(runs: Sequence[Record]) -> list[str]:
    """Say which runs of a member and seed are on folds of another cut, or on none that there is."""
    wrong = [run for run in runs if _of(run) != _of(runs[0]) or not 0 <= run["fold"] < _of(run)]
    return [f"{stem_of(run)}: fold {run['fold']} of {_of(run)}, and others are of {_of(runs[0])}" for run in wrong]


def _not_a_cut(board: Path, unit: str, runs: Sequence[Record]) -> Iterator[str]:
    """Yield rows of Training that two folds hold out, or that none does where all are there."""
    held = np.zeros(runs[0]["data"]["counts"]["Training"], dtype=np.int64)
    for run in runs:
        rows = records.arrays(board, run)["Training/rows"]
        if again := int((held[rows] > 0).sum()):
            yield f"{stem_of(run)}: holds out {again} rows of Training that another fold holds out too"
        held[rows] += 1
    if len(runs) == _of(runs[0]) and not held.all():
        yield f"{unit}: its {len(runs)} folds leave {int((held == 0).sum())} rows of Training out"


def _other_labels(board: Path, scored: Sequence[Record]) -> Iterator[str]:
    """Yield the records that give a row of Training another label than records of the same data before them."""
    known: dict[str, np.ndarray] = {}
    for record in scored:
        if "Training" not in record["figures"]:
            continue
        stored, data = records.arrays(board, record), record["data"]
        labels = known.setdefault(data["digest"], np.full(data["counts"]["Training"], -1))
        rows, own = stored.get("Training/rows", np.arange(len(labels))), stored["Training/labels"].astype(np.int64)
        if wrong := int(((labels[rows] >= 0) & (labels[rows] != own)).sum()):
            yield f"{stem_of(record)}: {wrong} labels of Training differ from those of other records of the same data"
        labels[rows] = own


def _lacking(record: Record, groups: dict[str, list[Record]]) -> Iterator[str]:
    """Yield the members of an ensemble whose folds do not all take part."""
    used: dict[str, set[int]] = defaultdict(set)
    sources = [source for source in record["members"] if source.get("fold") is not None]
    for unit, source in zip(records.units(sources), sources, strict=True):
        used[unit].add(source["fold"])
    for unit, found in used.items():
        if unit in groups and found != set(range(_of(groups[unit][0]))):
            yield f"{stem_of(record)}: combines folds {sorted(found)} of {unit}, which has {_of(groups[unit][0])}"
