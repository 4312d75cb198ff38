"""Figures of the probabilities themselves: do they mean what they say."""

from fer_bench import metrics
from fer_bench.leaderboard.markdown import number, percent, shelved, table
from fer_bench.leaderboard.rows import TEST, Board, title

FIGURE = "reliability.svg"


def section(board: Board, prefix: str) -> str:
    """The reliability figure of the best rows and a table of all."""
    if not board.rows:
        return ""
    shown = ", ".join(row.name for row in board.leading)
    figure = (
        f"![Accuracy by confidence on {TEST}: {shown}]({prefix}figures/{FIGURE})\n\nImages of {TEST} in "
        f"{metrics.BINS} bins of confidence (the probability of the predicted class), with 95 % Wilson intervals: "
        "points below the diagonal are overconfident. ECE, the expected calibration error, is the mean distance from "
        "the diagonal, weighted by the images of each bin. Declared seed.\n\n"
    )
    notes = f"On {TEST}, means over seeds."
    return f"{figure if board.leading else ''}{shelved('Probabilities of every row', probabilities(board))}\n\n{notes}"


def probabilities(board: Board) -> str:
    """Figures that accuracy does not show."""
    head = ["name", "balanced accuracy %", "top-2 %", "NLL, nats", "ECE %"]
    rows = [
        [
            title(row),
            percent(row.mean("balanced_accuracy")),
            percent(row.mean("top2")),
            number(row.mean("nll"), 4),
            percent(row.mean("ece")),
        ]
        for row in board.rows
    ]
    return table(head, rows, "lrrrr")
