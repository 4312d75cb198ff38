"""SVG figures: confusion matrices and their differences, reliability and training curves.

Matplotlib draws the same data to other bytes from one version to the next, so a figure is not compared byte by byte.
It carries two digests in its description: of the data that it shows, and of its own drawing. ``is_current`` holds when
the first is that of today's data and the second that of the file, whichever version drew it.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_bench import metrics
from fer_bench.data import EMOTIONS
from fer_bench.files import canonical_json, sha256_bytes
from fer_bench.leaderboard import calibration, classes, literature, matrices
from fer_bench.leaderboard.rows import TEST, Board, Row

DRAWING = 3
"""Raise when figures are to be drawn in another way: it is part of their data digest."""
MOST_CURVES = 8  # members, best first: more panels are no longer readable
COLUMNS = 4
LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
MOST_POINTS = 20  # a difference of so many points has the darkest colour
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
    found = {matrices.figure_name(row): _confusion_plan(row) for row in board.leading}
    found |= {matrices.difference_name(row): _difference_plan(board, row) for row in matrices.compared(board)}
    found |= {calibration.FIGURE: _reliability_plan(board)} if board.leading else {}
    members = curve_rows(board)
    return found | ({"curves.svg": _curves_plan(members)} if members else {})


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


def _difference_plan(board: Board, row: Row) -> dict[str, Any]:
    field = classes.comparable(board.published)
    points = [matrices.differences(row, matrix).tolist() for matrix in field]
    return {"kind": "difference", "name": row.name, "against": literature.labels(field), "points": points}


def _reliability_plan(board: Board) -> dict[str, Any]:
    rows = [
        {
            "name": row.name,
            "ece": row.record["figures"][TEST][row.headline]["ece"],
            "bins": [np.round(values, metrics.DECIMALS).tolist() for values in board.reliability[row.name]],
        }
        for row in board.leading
    ]
    return {"kind": "reliability", "rows": rows}


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
        # the constrained layout draws everything twice, and the curves are many
        figure = Figure(facecolor="white", layout=None if plan["kind"] == "curves" else "constrained")
        FigureCanvasSVG(figure)
        DRAWN[plan["kind"]](figure, plan)
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
    mesh = axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for (i, j), share in np.ndenumerate(shares):
        text = f"{100 * share:.0f} %\n{counts[i, j]}"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=_readable_on(mesh, share), size=8)
    _label_classes(axes, plan["title"])


def _readable_on(mesh: Any, value: float) -> str:
    """Black or white, whichever stands out from the colour of a cell."""
    return "white" if LUMINANCE @ mesh.to_rgba(value)[:3] < 0.5 else "black"


def _label_classes(axes: Any, title: str) -> None:
    ticks = np.arange(len(EMOTIONS)) + 0.5
    axes.set(xlabel="predicted", ylabel="truth", title=title, aspect="equal")
    axes.set_xticks(ticks, EMOTIONS, rotation=30, ha="right")
    axes.set_yticks(ticks, EMOTIONS)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_difference(figure: Any, plan: dict[str, Any]) -> None:
    """One matrix below the other: purple where ours is better, orange where it is worse."""
    from matplotlib.patches import Patch

    figure.set_size_inches(5.8, 5.2 * len(plan["points"]) + 0.4)
    panels = figure.subplots(len(plan["points"]), 1, squeeze=False)
    for axes, against, points in zip(panels.flat, plan["against"], plan["points"], strict=True):
        better = matrices.betterment(points)
        mesh = axes.pcolormesh(better, cmap="PuOr", vmin=-MOST_POINTS, vmax=MOST_POINTS, edgecolors="white")
        for (i, j), value in np.ndenumerate(points):
            text, colour = matrices.signed(value), _readable_on(mesh, float(better[i, j]))
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour, size=8)
        _label_classes(axes, f"{plan['name']} minus\n{against}, points")
    meanings = "better: higher recall, fewer mistakes", "worse: lower recall, more mistakes"
    patches = [
        Patch(color=mesh.to_rgba(sign * MOST_POINTS / 2), label=f"{plan['name']} {meaning}")
        for sign, meaning in zip((1, -1), meanings, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", frameon=False)


def _draw_reliability(figure: Any, plan: dict[str, Any]) -> None:
    """Accuracy by confidence above, images by confidence below, one column a row of the board."""
    rows = plan["rows"]
    figure.set_size_inches(0.5 + 2.7 * len(rows), 4.4)
    panels = figure.subplots(2, len(rows), squeeze=False, height_ratios=[3, 1], sharex=True, sharey="row")
    for column, row in enumerate(rows):
        upper, lower = panels[:, column]
        counts, confidence, accuracy = (np.array(values) for values in row["bins"])
        full = np.flatnonzero(counts)
        bounds = np.array([metrics.wilson(round(accuracy[i] * counts[i]), int(counts[i])) for i in full])
        error = np.abs(bounds.T - accuracy[full])
        upper.plot([0, 1], [0, 1], color="#777777", linestyle="--", linewidth=1)
        upper.errorbar(confidence[full], accuracy[full], yerr=error, color=BLUE, marker="o", markersize=4, capsize=2)
        lower.bar((np.arange(len(counts)) + 0.5) / len(counts), counts, width=0.9 / len(counts), color=ORANGE)
        upper.set(title=f"{row['name']}\nECE {100 * row['ece']:.2f} %", ylim=(0, 1.03))
        lower.set(xlabel="confidence", xlim=(0, 1))
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("images")
    for axes in panels.flat:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)


def _draw_curves(figure: Any, plan: dict[str, Any]) -> None:
    """A column a member, four a line; accuracies share their axis, losses do not compare under label smoothing."""
    lines = -(-len(plan["names"]) // COLUMNS)
    inches = np.array([0.3 + 2.55 * min(COLUMNS, len(plan["names"])), 0.4 + 3.9 * lines])
    figure.set_size_inches(inches)
    first: tuple[Any, Any] = (None, None)
    for index, (name, series) in enumerate(zip(plan["names"], plan["series"], strict=True)):
        line, column = divmod(index, COLUMNS)
        corner = np.array([0.6 + 2.55 * column, inches[1] - 2.1 - 3.9 * line])  # of the upper panel, lower left
        upper, lower = (
            figure.add_axes([*(at / inches), *([2.05, 1.4] / inches)]) for at in (corner, corner - [0, 1.7])
        )
        _draw_history(upper, lower, name, series)
        if index:
            lower.sharey(first[1])
        else:
            first = (upper, lower)
    figure.legend(*first[0].get_legend_handles_labels(), loc="upper center", ncols=2, frameon=False)


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
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


DRAWN = {
    "confusion": _draw_confusion,
    "curves": _draw_curves,
    "difference": _draw_difference,
    "reliability": _draw_reliability,
}
