"""Errors of one prediction counted: which classes, how sure, on which images, and who gets them right."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from fer_bench import metrics
from fer_bench.data import EMOTIONS

CONFIDENT = 0.8
"""A prediction with at least this probability is confident."""

EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)  # of the bands of confidence, each open below and closed above


@dataclass(frozen=True)
class Confusion:
    """Two classes (codes) taken for each other, and their share of all errors."""

    first: int
    second: int
    first_as_second: int
    second_as_first: int
    share: float

    @property
    def errors(self) -> int:
        """Errors in both directions."""
        return self.first_as_second + self.second_as_first


@dataclass(frozen=True)
class Mistake:
    """One wrong row, counted from 0 within its part; None where no audit says so."""

    row: int
    label: int
    predicted: int
    confidence: float
    twin: bool | None  # has an exact or near twin in Training
    agrees: bool | None  # FER+ has the same label


@dataclass(frozen=True)
class Group:
    """Rows of one kind; the groups of a diagnosis share no row and hold all."""

    name: str
    images: int
    right: int
    share: float  # of all errors

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, None without rows."""
        return self.right / self.images if self.images else None


@dataclass(frozen=True)
class Band:
    """Rows whose confidence is above ``low`` and at most ``high``."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class ClassRecall:
    """Recall of a class here and in the other rows."""

    code: int
    images: int
    recall: float
    precision: float
    median: float | None  # of the other rows
    best: float | None
    best_name: str | None
    best_p: float  # of an exact paired test against that row, on the images of the class


@dataclass(frozen=True)
class Partner:
    """Another row: its accuracy, how many of this row's errors it gets right, and the accuracy of a vote of both."""

    name: str
    accuracy: float
    mended: int
    voted: float | None = None


@dataclass(frozen=True)
class Vote:
    """The best of the votes of this row with one other: against the better of its two, as shares."""

    name: str  # of the other row
    accuracy: float
    among: int  # votes that were tried
    better: str  # of the two
    difference: float
    low: float  # 95 % paired bootstrap interval
    high: float


@dataclass(frozen=True)
class Diagnosis:
    """All counts of one prediction of one part."""

    title: str
    part: str
    view: str
    images: int
    right: int
    confidence: float  # mean
    ece: float
    confusions: tuple[Confusion, ...]  # most errors first
    confident: int
    mistakes: tuple[Mistake, ...]  # wrong and confident, the surest first
    groups: tuple[Group, ...]  # none without an audit of the part
    unconfirmed: float | None  # share of all wrong rows whose label FER+ has not, None without votes or mistakes
    bands: tuple[Band, ...]
    classes: tuple[ClassRecall, ...]
    partners: tuple[Partner, ...]  # the best vote first, without votes the one that mends most
    vote: Vote | None  # None without votes

    @property
    def errors(self) -> int:
        """Wrong rows."""
        return self.images - self.right

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.images


def diagnose(
    title: str,
    part: str,
    view: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    others: Mapping[str, np.ndarray],
    voted: Mapping[str, np.ndarray] | None = None,
    twins: np.ndarray | None = None,
    agrees: np.ndarray | None = None,
) -> Diagnosis:
    """Count the errors of probabilities (N, C) against labels (N,).

    ``others`` are masks (N,) of right answers of other rows by name, ``voted`` those of votes of this row with each,
    ``twins`` the mask of rows with a twin in Training and ``agrees`` of those whose label FER+ has too; None where
    nobody voted and where no audit says so.
    """
    labels = np.asarray(labels).astype(np.int64)
    rows = metrics.normalised(labels, probabilities)
    predicted, confidence = rows.argmax(axis=1), rows.max(axis=1)
    right = predicted == labels
    return Diagnosis(
        title,
        part,
        view,
        images=len(labels),
        right=int(right.sum()),
        confidence=float(confidence.mean()),
        ece=metrics.calibration_error(right, confidence),
        confusions=_confusions(labels, predicted),
        confident=int((confidence >= CONFIDENT).sum()),
        mistakes=_mistakes(labels, predicted, confidence, twins, agrees),
        groups=tuple(_groups(right, twins, agrees)),
        unconfirmed=None if agrees is None or right.all() else float((~agrees[~right]).mean()),
        bands=tuple(_bands(right, confidence)),
        classes=tuple(_classes(labels, predicted, others)),
        partners=_partners(right, others, voted or {}),
        vote=_best_vote(title, right, others, voted) if voted else None,
    )


def _confusions(labels: np.ndarray, predicted: np.ndarray) -> tuple[Confusion, ...]:
    classes = len(EMOTIONS)
    counts = np.bincount(classes * labels + predicted, minlength=classes**2).reshape(classes, classes)
    errors = max(int((labels != predicted).sum()), 1)
    found = [
        Confusion(a, b, int(counts[a, b]), int(counts[b, a]), int(counts[a, b] + counts[b, a]) / errors)
        for a, b in combinations(range(classes), 2)
    ]
    return tuple(sorted((pair for pair in found if pair.errors), key=lambda pair: (-pair.errors, pair.first)))


def _mistakes(
    labels: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    twins: np.ndarray | None,
    agrees: np.ndarray | None,
) -> tuple[Mistake, ...]:
    chosen = np.flatnonzero((predicted != labels) & (confidence >= CONFIDENT))
    chosen = chosen[np.argsort(-confidence[chosen], kind="stable")]
    return tuple(
        Mistake(
            int(row),
            int(labels[row]),
            int(predicted[row]),
            float(confidence[row]),
            None if twins is None else bool(twins[row]),
            None if agrees is None else bool(agrees[row]),
        )
        for row in chosen
    )


def _groups(right: np.ndarray, twins: np.ndarray | None, agrees: np.ndarray | None) -> Iterator[Group]:
    if twins is None:
        return
    kinds = {"a twin in Training": twins, "no twin": ~twins}
    if agrees is not None:
        kinds = {
            "a twin in Training": twins,
            "no twin, FER+ does not agree": ~twins & ~agrees,
            "no twin, FER+ agrees": ~twins & agrees,
        }
    errors = max(int((~right).sum()), 1)
    for name, mask in kinds.items():
        yield Group(name, int(mask.sum()), int(right[mask].sum()), int((~right[mask]).sum()) / errors)


def _bands(right: np.ndarray, confidence: np.ndarray) -> Iterator[Band]:
    for low, high in pairwise(EDGES):
        inside = (confidence > low) & (confidence <= high)
        empty = not inside.any()
        means = (None, None) if empty else (float(confidence[inside].mean()), float(right[inside].mean()))
        yield Band(low, high, int(inside.sum()), *means)


def _classes(labels: np.ndarray, predicted: np.ndarray, others: Mapping[str, np.ndarray]) -> Iterator[ClassRecall]:
    for code in range(len(EMOTIONS)):
        of_class = labels == code
        if not of_class.any():
            continue
        own = predicted[of_class] == code
        hits, taken = int(own.sum()), int((predicted == code).sum())
        recalls = {name: float(right[of_class].mean()) for name, right in sorted(others.items())}
        best = max(recalls, key=recalls.__getitem__) if recalls else None
        yield ClassRecall(
            code,
            int(of_class.sum()),
            hits / int(of_class.sum()),
            hits / taken if taken else 0.0,
            float(np.median(list(recalls.values()))) if recalls else None,
            recalls[best] if best else None,
            best,
            metrics.mcnemar_exact(others[best][of_class], own) if best else 1.0,
        )


def _partners(
    right: np.ndarray, others: Mapping[str, np.ndarray], voted: Mapping[str, np.ndarray]
) -> tuple[Partner, ...]:
    found = [
        Partner(
            name, float(mask.mean()), int((mask & ~right).sum()), float(voted[name].mean()) if name in voted else None
        )
        for name, mask in others.items()
    ]
    return tuple(sorted(found, key=lambda partner: (-(partner.voted or 0), -partner.mended, partner.name)))


def _best_vote(
    title: str, right: np.ndarray, others: Mapping[str, np.ndarray], voted: Mapping[str, np.ndarray]
) -> Vote:
    name = max(sorted(voted), key=lambda other: voted[other].sum())
    better, best = (name, others[name]) if others[name].sum() > right.sum() else (title, right)
    gain = metrics.paired_bootstrap(voted[name], best)
    return Vote(name, float(voted[name].mean()), len(voted), better, *gain)
