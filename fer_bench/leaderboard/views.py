"""The section on test-time views: what each stored view set gains over the plain image, at how many passes."""

from collections.abc import Sequence

from fer_bench import metrics
from fer_bench.leaderboard.markdown import LONG, details, p_value, percent, points_interval, table
from fer_bench.leaderboard.rows import Board, Row, title
from fer_bench.views import NAMES, describe

MOST_ROWS = 30  # whose view sets are shown


def section(board: Board) -> str:
    """Gain and price of test-time augmentation, and what its sets are; "" where no row stores any beside the image."""
    pairs = compared(board)
    if not pairs:
        return ""
    short, whole = tables(pairs)
    intro = (
        "Probabilities averaged over changed copies of each image, against the plain image of the same row, on the "
        f"declared seed. p is from exact McNemar tests, Holm-corrected over the lines of this section, {len(pairs)} in "
        "all; the interval is uncorrected, so it may leave 0 out where p finds no difference. The set that ranks a row "
        "is bold."
    )
    fold = [details("Every stored view set", whole)] if whole else []
    return "\n\n".join([intro, short, *fold, definitions({name for _, name in pairs})])


def compared(board: Board) -> list[tuple[Row, str]]:
    """Each stored view set but the plain image, of the first rows that store that too; the cheapest of a row first."""
    rows = [row for row in board.rows if "none" in row.predicted and len(row.predicted) > 1][:MOST_ROWS]
    return [
        (row, view)
        for row in rows
        for view in sorted(row.predicted, key=lambda view: (row.record["passes"][view], view))
        if view != "none"
    ]


def tables(pairs: Sequence[tuple[Row, str]]) -> tuple[str, str]:
    """What each view set gains over one view of the same row (declared seed), and its passes.

    Where there are many lines, the first table has the headlines alone and a second one every set; p values are
    corrected over all of them.
    """
    counted = ["name", "views", "passes an image", "one view %", "with views %"]
    head = [*counted, "gain, points [95 %, uncorrected]", "p (Holm)"]
    ps = metrics.holm([metrics.mcnemar_exact(row.right(view), row.right("none")) for row, view in pairs])
    lines = [_line(row, view, p) for (row, view), p in zip(pairs, ps, strict=True)]
    every = table(head, lines, "llrrrll")
    if len(lines) <= LONG:
        return every, ""
    headlines = [line for (row, view), line in zip(pairs, lines, strict=True) if view == row.headline]
    return table(head, headlines, "llrrrll"), every


def _line(row: Row, view: str, p: float) -> list[str]:
    after, before = row.right(view), row.right("none")
    return [
        title(row),
        f"**{view}**" if view == row.headline else view,
        str(row.record["passes"][view]),
        percent(float(before.mean())),
        percent(float(after.mean())),
        points_interval(*metrics.paired_bootstrap(after, before)),
        p_value(p),
    ]


def definitions(stored: set[str]) -> str:
    """The sets that appear, in one line; a product by its parts."""
    parts = {part for name in stored for part in name.split("+")}
    found = [f"*{name}*: {describe(name)}" for name in NAMES if name in parts]
    if any("+" in name for name in stored):
        found.append("*a+b*: each view of *a* on top of each of *b*, weights multiplied")
    return f"{'; '.join(found)}."
