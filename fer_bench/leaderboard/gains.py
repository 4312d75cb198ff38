"""What an ensemble gains over its best member, which PublicTest names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import metrics, records
from fer_bench.records import stem_of

Record = dict[str, Any]


@dataclass(frozen=True)
class Gain:
    """An ensemble against one run, image by image on PrivateTest; the difference is a share, with its 95 % interval."""

    over: str  # file stem of the run
    view: str
    difference: float
    low: float
    high: float
    p: float  # exact McNemar, uncorrected


def over_best_member(
    board: Path, known: Mapping[str, Record], ensemble: Record, labels: np.ndarray, right: np.ndarray
) -> Gain | None:
    """Compare an ensemble's right answers (N,) with those of its member that is best on PublicTest.

    A member that takes part by its fold runs stands for itself as trained on all of Training, where all of them have
    such a run: that is what one would use instead. None where a member is not on the board or has other test rows.
    """
    view = ensemble["headline"]
    sources = ensemble["members"]
    whole = [known.get(unit) for unit in dict.fromkeys(records.units(sources))]
    members = whole if all(_comparable(run, view) for run in whole) else [known.get(stem_of(s)) for s in sources]
    found = [run for run in members if run is not None and _comparable(run, view)]
    if not found or len(found) < len(members):
        return None
    best = max(found, key=lambda run: run["figures"]["PublicTest"][_view(run, view)]["accuracy"])
    stored = records.arrays(board, best)
    if not np.array_equal(stored["PrivateTest/labels"], labels):
        return None
    own = records.predicted(stored[f"PrivateTest/{_view(best, view)}"]) == labels
    return Gain(stem_of(best), view, *metrics.paired_bootstrap(right, own), p=metrics.mcnemar_exact(right, own))


def _comparable(run: Record | None, view: str) -> bool:
    """Whether a run is finished and stores the view set, or was submitted with one that stands for all."""
    return run is not None and run["kind"] != "failure" and _view(run, view) in run["views"]


def _view(run: Record, view: str) -> str:
    return run["headline"] if run["kind"] == "external" else view
