"""A study as SVG: its history, a slice along each searched key, the parameters' importances. Drawn from plain rows."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fer_bench.tune.space import Dimension

BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#999999"  # Okabe and Ito's colour-blind-safe set
COLUMNS = 4
STYLE = {
    "svg.hashsalt": "fer-bench",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Row = dict[str, Any]


def draw_all(
    rows: Sequence[Row], dimensions: Mapping[str, tuple[Dimension, ...]], importances: Mapping[str, float]
) -> dict[str, bytes]:
    """File name -> SVG; a figure that has nothing to show is left out."""
    scored = [row for row in rows if _height(row) is not None]
    found = {}
    if scored:
        found["history.svg"] = _svg(lambda figure: _history(figure, scored))
        found["slices.svg"] = _svg(lambda figure: _slices(figure, scored, dimensions))
    if importances:
        found["importances.svg"] = _svg(lambda figure: _importances(figure, importances))
    return found


def _height(row: Row) -> float | None:
    """A complete trial's value, a pruned one's last report."""
    if row["state"] == "pruned" and row["steps"]:
        return list(row["steps"].values())[-1]
    return row["value"]


def _svg(draw: Callable[[Any], None]) -> bytes:
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(facecolor="white", layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "fer-bench"})
    return buffer.getvalue()


def _parts(rows: Sequence[Row]) -> list[tuple[str, str, str, list[Row]]]:
    """(label, colour, marker, rows) of the complete trials, the default setting, and the pruned trials."""
    complete = [row for row in rows if row["state"] == "complete"]
    return [
        ("pruned, last report", GRAY, "x", [row for row in rows if row["state"] == "pruned"]),
        ("complete", BLUE, "o", [row for row in complete if row["origin"] != "default"]),
        ("default setting", ORANGE, "D", [row for row in complete if row["origin"] == "default"]),
    ]


def _history(figure: Any, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import MaxNLocator

    figure.set_size_inches(7, 4)
    axes = figure.add_subplot()
    for label, colour, marker, part in _parts(rows):
        if part:
            heights = [100 * _height(row) for row in part]  # type: ignore[operator]  # rows without one are left out
            axes.scatter([row["number"] for row in part], heights, s=22, c=colour, marker=marker, label=label, zorder=3)
    complete = [row for row in rows if row["state"] == "complete"]
    best = [100 * max(row["value"] for row in complete[: i + 1]) for i in range(len(complete))]
    axes.step([row["number"] for row in complete], best, where="post", color=BLUE, linewidth=1, label="best so far")
    axes.set(xlabel="trial", ylabel="accuracy on the rows held out, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#dddddd", linewidth=0.6)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)


def _slices(figure: Any, rows: Sequence[Row], dimensions: Mapping[str, tuple[Dimension, ...]]) -> None:
    keys = sorted(dimensions)
    width = min(COLUMNS, len(keys))
    lines = -(-len(keys) // width)
    figure.set_size_inches(0.6 + 2.6 * width, 2.4 * lines + 0.5)
    panels = figure.subplots(lines, width, squeeze=False, sharey=True)
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    for axes, key in zip(panels.flat, keys, strict=False):
        _slice(axes, key, rows, dimensions[key])
    for line in panels:
        line[0].set_ylabel("accuracy, %")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)


def _slice(axes: Any, key: str, rows: Sequence[Row], dimensions: tuple[Dimension, ...]) -> None:
    """A range as an axis of its scale; choices side by side."""
    choices = list(dict.fromkeys(choice for dimension in dimensions for choice in dimension.choices or ()))
    for label, colour, marker, part in _parts(rows):
        held = [row for row in part if key in row["values"]]
        at = [choices.index(row["values"][key]) if choices else row["values"][key] for row in held]
        heights = [100 * _height(row) for row in held]  # type: ignore[operator]  # rows without one are left out
        axes.scatter(at, heights, s=16, c=colour, marker=marker, label=label, zorder=3)
    if choices:
        axes.set_xticks(range(len(choices)), [str(choice) for choice in choices])
        axes.set_xlim(-0.5, len(choices) - 0.5)
    elif any(dimension.log for dimension in dimensions):
        _scale_by_logarithm(axes)
    axes.set_xlabel(key)
    axes.grid(color="#dddddd", linewidth=0.6)


def _scale_by_logarithm(axes: Any) -> None:
    """Ticks at powers of ten, and at twice and five times those where there are few; plain numbers, apart."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 30 * low else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _importances(figure: Any, importances: Mapping[str, float]) -> None:
    names = list(importances)[::-1]
    figure.set_size_inches(6, 0.6 + 0.28 * len(names))
    axes = figure.add_subplot()
    axes.barh(names, [importances[name] for name in names], color=BLUE)
    axes.set(xlabel="importance (PED-ANOVA, shares of 1)", xlim=(0, 1))
    axes.tick_params(axis="y", length=0)
