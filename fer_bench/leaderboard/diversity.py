"""How single models differ, and what each adds to a vote: all of it on PublicTest, where members may be chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_bench import metrics, records
from fer_bench.ensemble.votes import soft_vote
from fer_bench.leaderboard.markdown import NOTHING, percent, points_interval, table
from fer_bench.leaderboard.rows import VALIDATION, Board, Row, title

MOST = 8  # models, best first: what is far behind adds nothing, and the table stays narrow


@dataclass(frozen=True, eq=False)
class Model:
    """A row's predictions for N images of PublicTest, with its declared seed and view set."""

    row: Row
    probabilities: np.ndarray  # (N, C)
    labels: np.ndarray  # (N,)

    @property
    def predicted(self) -> np.ndarray:
        """The class of each image, (N,)."""
        return records.predicted(self.probabilities)

    @property
    def right(self) -> np.ndarray:
        """Mask (N,) of right answers."""
        return self.predicted == self.labels


def section(board: Board) -> str:
    """Two tables and how to read them; "" for fewer than two models."""
    found = models(board)
    if len(found) < 2:
        return ""
    first = title(found[0].row)
    notes = (
        f"All on {VALIDATION}, the part that may choose members, with the declared seed and the row's views; the "
        f"single models that are best there, {MOST} at most. *Shared mistakes* is the share of a row's mistakes that "
        f"{first} makes too, whatever class they name. A *vote* averages probabilities with equal weights. Intervals "
        "are paired bootstraps of 95 %, uncorrected. A model helps by being good, or by being wrong elsewhere."
    )
    return (
        f"{additions(found)}\n\n{notes}\n\nImages, in %, to which two models give different classes:\n\n{matrix(found)}"
    )


def models(board: Board) -> list[Model]:
    """The best single models on PublicTest of those that store it, best first."""
    rows = [row for row in board.fair if not row.is_ensemble and row.headline in row.validated]
    best = sorted(rows, key=lambda row: (-row.validated[row.headline].mean(), row.name))[:MOST]
    return [_model(board, row) for row in best] if board.folder else []


def _model(board: Board, row: Row) -> Model:
    assert board.folder is not None
    stored = records.arrays(board.folder, row.record)
    return Model(row, stored[f"{VALIDATION}/{row.headline}"], stored[f"{VALIDATION}/labels"])


def additions(found: Sequence[Model]) -> str:
    """What each model adds to the first one, and to all others together."""
    best = found[0]
    head = [
        "name",
        "accuracy %",
        "shared mistakes %",
        f"vote with {title(best.row)}, over it alone, points [95 %]",
        "vote of all, over all but it, points [95 %]",
    ]
    everyone = _vote(found)
    lines = []
    for model in found:
        wrong = ~model.right
        shared = (wrong & ~best.right).sum() / max(1, wrong.sum())
        pair = [NOTHING] * 2 if model is best else [percent(shared), _over(_vote([best, model]), best.right)]
        rest = [other for other in found if other is not model]
        lines.append([title(model.row), percent(model.right.mean()), *pair, _over(everyone, _vote(rest))])
    return table(head, lines, "lrrll")


def matrix(found: Sequence[Model]) -> str:
    """Share of images to which two models give different classes, in %, for every pair."""
    predicted = [model.predicted for model in found]
    lines = [
        [f"{i + 1}. {title(model.row)}"]
        + [NOTHING if i == j else f"{100 * (predicted[i] != other).mean():.1f}" for j, other in enumerate(predicted)]
        for i, model in enumerate(found)
    ]
    return table(["name", *(f"{i + 1}." for i in range(len(found)))], lines, "l" + "r" * len(found))


def _vote(found: Sequence[Model]) -> np.ndarray:
    """Mask (N,) of the images that a soft vote gets right."""
    vote = soft_vote(np.stack([model.probabilities for model in found]))
    return vote.argmax(axis=1) == found[0].labels


def _over(after: np.ndarray, before: np.ndarray) -> str:
    return points_interval(*metrics.paired_bootstrap(after, before))
