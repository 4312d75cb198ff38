"""Recall of each class: the best rows of the board beside the field."""

import math
from collections.abc import Sequence

import numpy as np

from fer_bench import metrics
from fer_bench.data import EMOTIONS
from fer_bench.leaderboard import literature
from fer_bench.leaderboard.markdown import NOTHING, details, interval, percent, table
from fer_bench.leaderboard.published import Confusion, Published
from fer_bench.leaderboard.rows import TEST, Board, Row


def section(board: Board) -> str:
    """One table of recalls, then, folded, the precision of the same rows and the published matrices of other parts."""
    if not board.leading:
        return ""
    field = comparable(board.published)
    notes = "Percent of each true class, declared seed, with 95 % bootstrap intervals; *mean* is the balanced accuracy."
    if any(_is_certain(_confusion(row)) for row in board.leading):
        notes += " Where none or all of a class are right, every draw is alike, so that interval is Wilson's."
    if field:
        notes += " Published recalls stand as printed; without probabilities no paired test is possible."
        notes += literature.full_names(field)
    parts = [recall(board.leading, board.published), notes, details("Precision", precision(board.leading))]
    if others := [c for c in board.published.confusions if c not in field] if board.published else []:
        parts.append(details("Published recalls on PublicTest", literature.recalls(others)))
    return "\n\n".join(parts)


def comparable(published: Published | None) -> list[Confusion]:
    """The published matrices of PrivateTest."""
    return [c for c in published.confusions if c.part == TEST] if published else []


def recall(rows: Sequence[Row], published: Published | None) -> str:
    """Classes down, methods across: measured recalls with their intervals, then published ones."""
    confusions = [_confusion(row) for row in rows]
    field, support = comparable(published), confusions[0].sum(axis=1)
    columns = [_measured(confusion) for confusion in confusions] + [_published(matrix) for matrix in field]
    theirs = (
        [
            f"{name}, {literature.protocol(published, c)}"
            for name, c in zip(literature.labels(field), field, strict=True)
        ]
        if published
        else []
    )
    head = ["class", "images", *(f"{row.name} [95 %]" for row in rows), *theirs]
    names = [*zip(EMOTIONS, (f"{n:,}" for n in support), strict=True), ("*mean*", f"{support.sum():,}")]
    lines = [[*name, *cells] for name, cells in zip(names, zip(*columns, strict=True), strict=True)]
    return table(head, lines, "l" + "r" * (len(head) - 1))


def _confusion(row: Row) -> np.ndarray:
    return np.array(row.record["figures"][TEST][row.headline]["confusion"])


def _is_certain(confusion: np.ndarray) -> bool:
    """Whether none or all of a class that has images are right."""
    support, hits = confusion.sum(axis=1), np.diagonal(confusion)
    return bool(((support > 0) & ((hits == 0) | (hits == support))).any())


def _measured(confusion: np.ndarray) -> list[str]:
    support, bounds = confusion.sum(axis=1), metrics.recall_intervals(confusion)
    shares = [hits / n if n else math.nan for hits, n in zip(np.diagonal(confusion), support, strict=True)]
    cells = [NOTHING if math.isnan(s) else f"{percent(s)} {interval(*b)}" for s, b in zip(shares, bounds, strict=True)]
    return [*cells, percent(float(np.nanmean(shares)))]


def _published(matrix: Confusion) -> list[str]:
    cells = [literature.recall(matrix, share) for share in matrix.recall]
    return [*cells, literature.recall(matrix, float(np.mean(matrix.recall)))]


def precision(rows: Sequence[Row]) -> str:
    """Share of right answers among the predictions of each class."""
    figures = [row.record["figures"][TEST][row.headline]["precision"] for row in rows]
    lines = [[emotion, *(percent(values[i]) for values in figures)] for i, emotion in enumerate(EMOTIONS)]
    return table(["class", *(f"{row.name} %" for row in rows)], lines, "l" + "r" * len(rows))
