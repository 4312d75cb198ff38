"""Two rows of a board against each other, image by image, from their stored probabilities."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import metrics, records
from fer_bench.data import EMOTIONS
from fer_bench.errors import UserError
from fer_bench.records.identity import stem_of

PARTS = "PrivateTest", "PublicTest"

Record = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One of the two rows: accuracy and recall of each class are shares."""

    title: str  # file stem, with the seed
    view: str
    accuracy: float
    recall: tuple[float, ...]
    only_right: int  # images that this row gets right and the other wrong


@dataclass(frozen=True)
class Comparison:
    """Row a against row b on the same N images of a part; differences are a minus b, as shares."""

    part: str
    a: Side
    b: Side
    images: int
    support: tuple[int, ...]  # images of each class
    difference: float
    low: float  # 95 % paired bootstrap interval
    high: float
    p: float  # exact McNemar, of this pair alone

    @property
    def recall_differences(self) -> tuple[float, ...]:
        """Recall of a minus that of b, one a class."""
        return tuple(a - b for a, b in zip(self.a.recall, self.b.recall, strict=True))


def compare(board: Path, name_a: str, name_b: str, view: str | None = None, part: str = "PrivateTest") -> Comparison:
    """Compare two rows, each by its lowest seed (or ``NAME.s1``), with its declared view set or both with ``view``.

    A submitted row has one set of probabilities, which stands for any view set.

    Raises:
        UserError: an unknown row or part, a view set or part that one does not store, or rows made on other images.
    """
    if part not in PARTS:
        raise UserError(f"--part: unknown {part!r}; use {' or '.join(PARTS)}")
    found = [records.called(board, name) for name in (name_a, name_b)]
    views = [_view(record, view) for record in found]
    stored = [records.arrays(board, record) for record in found]
    labels = _common_labels(found, stored, part)
    predicted = [records.predicted(arrays[f"{part}/{v}"]) for arrays, v in zip(stored, views, strict=True)]
    right_a, right_b = (classes == labels for classes in predicted)
    a = _side(found[0], views[0], labels, right_a, right_b)
    b = _side(found[1], views[1], labels, right_b, right_a)
    return Comparison(
        part,
        a,
        b,
        len(labels),
        tuple(np.bincount(labels, minlength=len(EMOTIONS)).tolist()),
        *metrics.paired_bootstrap(right_a, right_b),
        p=metrics.mcnemar_exact(right_a, right_b),
    )


def _view(record: Record, wanted: str | None) -> str:
    view = record["headline"] if record["kind"] == "external" else wanted or record["headline"]
    if view not in record["views"]:
        raise UserError(f"--view {view}: {record['name']} stores {', '.join(record['views'])}")
    return view


def _common_labels(found: list[Record], stored: list[dict[str, np.ndarray]], part: str) -> np.ndarray:
    """Labels (N,) of both rows; other data or other labels cannot be compared image by image."""
    titles = " and ".join(record["name"] for record in found)
    if any(f"{part}/labels" not in arrays for arrays in stored):
        raise UserError(f"{titles}: both must store {part}")
    digests = [record["data"]["digest"] for record in found]
    labels_a, labels_b = (arrays[f"{part}/labels"] for arrays in stored)
    if digests[0] != digests[1] or not np.array_equal(labels_a, labels_b):
        raise UserError(
            f"{titles}: made on other data ({digests[0][:12]}, {digests[1][:12]}), which cannot be compared in pairs"
        )
    return labels_a.astype(np.int64)


def _side(record: Record, view: str, labels: np.ndarray, right: np.ndarray, other: np.ndarray) -> Side:
    recall = [float(right[labels == code].mean()) if (labels == code).any() else 0.0 for code in range(len(EMOTIONS))]
    title = stem_of(record)
    return Side(title, view, float(right.mean()), tuple(recall), int((right & ~other).sum()))
