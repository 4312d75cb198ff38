"""Twins and votes in relation to parts and labels: masks over the rows of the data, N in all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_bench import twins
from fer_bench.audit import ferplus
from fer_bench.data import PARTS, Faces
from fer_bench.data.faces import UNLABELLED
from fer_bench.files import sha256_file


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found in ``faces``; every question about a pair of parts is a method with masks (N,) as its answer."""

    faces: Faces
    groups: np.ndarray  # (N,) int64, one id for identical pixels
    constant: np.ndarray  # (N,) bool
    pairs: twins.Pairs
    threshold: float
    majority: np.ndarray | None = None  # (N,) int8, FER+, -1 where it has no single emotion
    votes_sha256: str | None = None

    def within(self, part: str) -> np.ndarray:
        """The rows of a part."""
        return self.faces.parts == PARTS.index(part)

    def exact_twin_in(self, part: str) -> np.ndarray:
        """Rows whose pixels are those of another row, in ``part``."""
        return self._copies(self.within(part)) > 0

    def twin_in(self, part: str) -> np.ndarray:
        """Rows with an exact or a near twin in ``part``."""
        found, inside = self.exact_twin_in(part), self.within(part)
        for row, twin in ((self.pairs.first, self.pairs.second), (self.pairs.second, self.pairs.first)):
            found[row[inside[twin]]] = True
        return found

    def conflict_in(self, part: str) -> np.ndarray:
        """Rows with an exact twin in ``part`` under another label; a row without a label contradicts none."""
        others = self.within(part) & (self.faces.labels != UNLABELLED)
        agree = np.unique(np.stack([self.groups, self.faces.labels]), axis=1, return_inverse=True)[1].reshape(-1)
        same = np.bincount(agree[others], minlength=len(agree))[agree]
        all_labels = np.bincount(self.groups[others], minlength=len(agree))[self.groups]
        return (all_labels > same) & (self.faces.labels != UNLABELLED)

    @property
    def conflict(self) -> np.ndarray:
        """Rows with an exact twin under another label, in any part."""
        return np.any([self.conflict_in(part) for part in PARTS], axis=0)

    @property
    def agrees(self) -> np.ndarray | None:
        """Rows whose label is the majority vote of FER+; None without votes."""
        return None if self.majority is None else (self.majority == self.faces.labels) & (self.majority != ferplus.NONE)

    def _copies(self, among: np.ndarray) -> np.ndarray:
        """How many of the rows in the mask have each row's pixels, itself left out."""
        return np.bincount(self.groups[among], minlength=len(among))[self.groups] - among


def examine(
    faces: Faces,
    votes: Path | None = None,
    *,
    threshold: float = twins.THRESHOLD,
    progress: Callable[[float], None] = lambda share: None,
) -> Findings:
    """Search all of ``faces`` for twins and compare its labels with the FER+ votes in the file ``votes``.

    The search takes one float32 product of N x N x 2,304 over two, in blocks: minutes for FER2013 on one core.
    """
    majority = ferplus.majority(votes, faces.parts) if votes else None  # first: it is quick, and where mistakes show
    return Findings(
        faces,
        twins.exact_groups(faces.images),
        twins.constant(faces.images),
        twins.near(faces.images, threshold, progress=progress),
        threshold,
        majority,
        sha256_file(votes) if votes else None,
    )
