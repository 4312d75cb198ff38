"""Confusion matrices of the best rows, and their differences from published ones."""

from collections.abc import Sequence

import numpy as np

from fer_bench.data import EMOTIONS
from fer_bench.leaderboard import literature
from fer_bench.leaderboard.classes import comparable
from fer_bench.leaderboard.markdown import details, escape, listing, table
from fer_bench.leaderboard.published import Confusion
from fer_bench.leaderboard.rows import TEST, Board, Row

DISGUST = EMOTIONS.index("Disgust")  # the rarest class


def section(board: Board, prefix: str) -> str:
    """A figure and folded tables for each of the best rows; the submitted one is folded whole."""
    parts = []
    for row in board.leading:
        figure = (
            f"![Confusion matrix of {escape(row.name)} on {TEST}: share of each true class, and counts]"
            f"({prefix}figures/{figure_name(row)})"
        )
        if row.is_external:
            parts.append(details(f"{row.name}: figure, counts and percent", f"{figure}\n\n{_tables(row)}"))
        else:
            parts += [figure, details(f"{row.name}: counts and percent of each true class", _tables(row))]
    return "\n\n".join([*parts, *_others(board, prefix), *_differences(board, prefix)])


def _others(board: Board, prefix: str) -> list[str]:
    """Where the matrices of the rows are that have no figure."""
    if len(board.rows) <= len(board.leading):
        return []
    where = f"[`{prefix}results/`]({prefix}results)"
    return [f"The matrices of the other rows are in their records in {where}: `figures`, part, view set, `confusion`."]


def figure_name(row: Row) -> str:
    """File name of a row's confusion matrix."""
    return f"confusion-{row.name}.svg"


def difference_name(row: Row) -> str:
    """File name of a row's differences from published matrices."""
    return f"difference-{row.name}.svg"


def compared(board: Board) -> tuple[Row, ...]:
    """The rows that are held against published matrices: the best single model and the best ensemble."""
    return tuple(row for row in board.leading if not row.is_external) if comparable(board.published) else ()


def counts(row: Row) -> np.ndarray:
    """The declared seed's confusion matrix (C, C) on PrivateTest; rows are the truth."""
    return np.array(row.record["figures"][TEST][row.headline]["confusion"])


def shares(matrix: np.ndarray) -> np.ndarray:
    """Each cell as a share of its row, 0 in a row without images."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def differences(row: Row, other: Confusion) -> np.ndarray:
    """Row percentages of the row minus published ones (C, C), in points, to whole ones where shares were printed."""
    theirs = np.array(other.rows, dtype=np.float64)
    printed = other.unit == "shares"
    return np.round(100 * (shares(counts(row)) - (theirs if printed else shares(theirs))), 0 if printed else 1)


def betterment(points: np.ndarray) -> np.ndarray:
    """Differences (C, C) with a plus for the better: a higher recall on the diagonal, fewer mistakes beside it."""
    return np.where(np.eye(len(points), dtype=bool), points, -np.asarray(points))


def _tables(row: Row) -> str:
    """Counts, then percent of each true class."""
    found = counts(row)
    whole = _matrix([[f"{n:,}" for n in line] for line in found])
    return f"{whole}\n\n{_matrix([[f'{100 * share:.1f}' for share in line] for line in shares(found)])}"


def _matrix(cells: Sequence[Sequence[str]]) -> str:
    """Seven by seven cells with the names of the classes on both sides."""
    rows = [[f"**{emotion}**", *line] for emotion, line in zip(EMOTIONS, cells, strict=True)]
    return table(["truth ↓ predicted →", *EMOTIONS], rows, "l" + "r" * len(EMOTIONS))


def _differences(board: Board, prefix: str) -> list[str]:
    """A sentence, and for each of our best rows a fold with a figure and a table for each published matrix."""
    field, rows = comparable(board.published), compared(board)
    if not rows or board.published is None:
        return []
    theirs = listing([f"{c.name} ({literature.protocol(board.published, c)})" for c in field])
    one = 100 / max(int(counts(rows[0])[DISGUST].sum()), 1)
    intro = (
        f"**Against published matrices** of {TEST}, row percentages of ours minus theirs, in points: on the diagonal a "
        "plus is a better recall, beside it a plus is more mistakes. In the figures purple is better and orange worse, "
        f"on the diagonal and beside it. Theirs are {theirs}. Shares printed to two "
        f"decimals are within 0.5 points, one image of Disgust is {one:.1f} points, and no paired test is possible."
    )
    return [intro, *(_fold(row, field, prefix) for row in rows)]


def _fold(row: Row, field: Sequence[Confusion], prefix: str) -> str:
    names = literature.labels(field)
    against = listing(names)
    figure = f"![Row percentages of {row.name} minus those of {against}]({prefix}figures/{difference_name(row)})"
    tables = [
        f"{row.name} minus {name}:\n\n{_matrix([[signed(value) for value in line] for line in differences(row, c)])}"
        for name, c in zip(names, field, strict=True)
    ]
    return details(f"{row.name} minus {against}", "\n\n".join([figure, *tables]))


def signed(value: float) -> str:
    """Points with a sign, and a plain 0."""
    return f"{value:+g}".replace("-", "−") if value else "0"
