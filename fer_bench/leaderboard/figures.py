"""SVG figures: confusion matrices and training curves.

Matplotlib draws the same data to other bytes from one version to the next, so a figure is not compared byte by byte.
It carries two digests in its description: of the data that it shows, and of its own drawing. ``is_current`` holds when
the first is that of today's data and the second that of the file, whichever version drew it.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_bench.data import EMOTIONS
from fer_bench.files import canonical_json, sha256_bytes
from fer_bench.leaderboard.rows import TEST, Board, Row

DRAWING = 1
"""Raise when figures are to be drawn in another way: it is part of their data digest."""
MOST_CURVES = 12  # members, best first: more panels are no longer readable
COLUMNS = 4
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's colour-blind-safe set
DIGESTS = re.compile(rb"data ([0-9a-f]{64}), drawing ([0-9a-f]{64})")
STYLE = {
    "svg.hashsalt": "fer-bench",
    "svg.fonttype": "path",  # text as outlines: the same on every machine
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plans(board: Board) -> dict[str, dict[str, Any]]:
    """Say what each figure shows, by file name: plain data, from which ``draw`` and the data digest are made."""
    found = {confusion_name(row): _confusion_plan(row) for row in board.leading}
    members = curve_rows(board)
    return found | ({"curves.svg": _curves_plan(members)} if members else {})


def confusion_name(row: Row) -> str:
    """File name of a row's confusion matrix."""
    return f"confusion-{row.name}.svg"


def curve_rows(board: Board) -> list[Row]:
    """The rows whose training is drawn: the best single models that have a history."""
    return [row for row in board.fair if row.record.get("history")][:MOST_CURVES]


def _confusion_plan(row: Row) -> dict[str, Any]:
    counts = row.record["figures"][TEST][row.headline]["confusion"]
    return {"kind": "confusion", "title": f"{row.name}, {TEST}", "counts": counts}


def _curves_plan(rows: Sequence[Row]) -> dict[str, Any]:
    keys = ("epoch", "train_loss", "validation_loss", "validation_accuracy")
    series = [[[epoch[key] for epoch in row.record["history"]] for key in keys] for row in rows]
    return {"kind": "curves", "names": [row.name for row in rows], "series": series}


def data_digest(plan: dict[str, Any]) -> str:
    """Digest of what a figure shows and of the way it is drawn."""
    return sha256_bytes(canonical_json([DRAWING, plan]))


def is_current(svg: bytes, plan: dict[str, Any]) -> bool:
    """Whether a figure shows this data, in a drawing that nobody changed since."""
    match = DIGESTS.search(svg)
    if match is None:
        return False
    unsealed = svg.replace(match[2], b"0" * 64)
    return match[1].decode() == data_digest(plan) and match[2].decode() == sha256_bytes(unsealed)


def draw(plan: dict[str, Any]) -> bytes:
    """Draw a figure: the same bytes for the same data and version of matplotlib."""
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(facecolor="white", layout="constrained")
        FigureCanvasSVG(figure)
        (_draw_confusion if plan["kind"] == "confusion" else _draw_curves)(figure, plan)
        buffer = io.BytesIO()
        description = f"data {data_digest(plan)}, drawing {'0' * 64}"
        metadata = {"Date": None, "Creator": "fer-bench", "Description": description}
        figure.savefig(buffer, format="svg", metadata=metadata)
    svg = buffer.getvalue()
    return svg.replace(b"drawing " + b"0" * 64, b"drawing " + sha256_bytes(svg).encode())


def _draw_confusion(figure: Any, plan: dict[str, Any]) -> None:
    counts = np.array(plan["counts"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure.set_size_inches(5.8, 5.4)
    axes = figure.add_subplot()
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for (i, j), share in np.ndenumerate(shares):
        text = f"{100 * share:.0f} %\n{counts[i, j]}"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color="white" if share > 0.55 else "black", size=8)
    ticks = np.arange(len(EMOTIONS)) + 0.5
    axes.set(xlabel="predicted", ylabel="truth", title=plan["title"], aspect="equal")
    axes.set_xticks(ticks, EMOTIONS, rotation=30, ha="right")
    axes.set_yticks(ticks, EMOTIONS)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_curves(figure: Any, plan: dict[str, Any]) -> None:
    lines = -(-len(plan["names"]) // COLUMNS)
    width = min(COLUMNS, len(plan["names"]))
    figure.set_size_inches(0.6 + 2.5 * width, 3.7 * lines + 0.3)
    panels = figure.subplots(2 * lines, width, squeeze=False)
    for axes in panels.flat:
        axes.set_visible(False)
    for index, (name, series) in enumerate(zip(plan["names"], plan["series"], strict=True)):
        line, column = divmod(index, COLUMNS)
        upper, lower = panels[2 * line, column], panels[2 * line + 1, column]
        _draw_history(upper, lower, name, series)
        if index:
            lower.sharey(panels[1, 0])  # accuracies compare across members, losses under label smoothing do not
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)


def _draw_history(upper: Any, lower: Any, name: str, series: list[list[float | None]]) -> None:
    """Loss above, accuracy below; an epoch without validation leaves a gap."""
    from matplotlib.ticker import MaxNLocator

    epochs, train, validation, accuracy = (np.array(values, dtype=float) for values in series)
    upper.plot(epochs, train, color=BLUE, linestyle="--", marker=".", markersize=4, label="Training")
    upper.plot(epochs, validation, color=ORANGE, marker=".", markersize=4, label="PublicTest")
    lower.plot(epochs, 100 * accuracy, color=ORANGE, marker=".", markersize=4)
    upper.set(title=name, ylabel="loss")
    lower.set(xlabel="epoch", ylabel="accuracy, %")
    for axes in (upper, lower):
        axes.set_visible(True)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
