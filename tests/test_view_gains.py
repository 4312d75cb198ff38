"""The board's section on test-time views."""

import numpy as np
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from fer_bench.leaderboard import markdown, rows, views
from fer_bench.views import passes

N = 350


def row_with_views(name, rights, headline):
    """A row whose view sets are right where their masks (N,) say so; every label is 0."""
    record = {"kind": "member", "headline": headline, "passes": {view: passes(view) for view in rights}}
    predicted = {view: (~right).astype(np.int64) for view, right in rights.items()}
    return rows.Row(name, (record,), np.zeros(N, np.uint8), predicted)


def masks(views, seed=0):
    return {view: np.random.default_rng([seed, i]).random(N) < 0.6 + 0.03 * i for i, view in enumerate(views)}


def body(markdown_table):
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in markdown_table.splitlines()[2:]]


def test_gains_over_one_view_are_corrected_over_the_whole_section():
    first = row_with_views("a", masks(["none", "ten-crop", "flip"]), "flip")
    board = rows.Board((first, row_with_views("b", masks(["none", "rotate"], seed=1), "rotate")))
    pairs = views.compared(board)
    assert [(row.name, view) for row, view in pairs] == [("a", "flip"), ("a", "ten-crop"), ("b", "rotate")]
    ps = []
    for row, view in pairs:
        won, lost = (row.right(view) & ~row.right("none")).sum(), (~row.right(view) & row.right("none")).sum()
        ps.append(binomtest(int(won), int(won + lost)).pvalue)
    short, whole = views.tables(pairs)
    assert whole == ""
    assert [cells[-1] for cells in body(short)] == [markdown.p_value(p) for p in multipletests(ps, method="holm")[1]]
    assert [cells[1:3] for cells in body(short)] == [["**flip**", "2"], ["ten-crop", "10"], ["**rotate**", "3"]]
    gain = 100 * (first.right("flip").mean() - first.right("none").mean())
    assert body(short)[0][5].startswith(f"+{gain:.2f} [")


def test_many_view_sets_are_folded_and_each_is_defined_once():
    stored = ["none", "flip+rotate", "shift", "five-crop", "multi-scale", "ten-crop"]
    board = rows.Board(tuple(row_with_views(name, masks(stored), "ten-crop") for name in "abc"))
    text = views.section(board)
    shown, _, folded = text.partition("<details>")
    assert shown.count("| **ten-crop** |") == shown.count("\n| ") - 2 == 3
    assert folded.count("\n| ") - 2 == 15
    assert [folded.count(f"*{name}*: ") for name in ("flip", "rotate", "shift", "five-crop", "ten-crop", "a+b")] == [
        1
    ] * 6
    assert "*none*" not in text
    assert "15 in all" in text


def test_a_board_of_plain_images_has_no_views_section():
    assert views.section(rows.Board((row_with_views("a", masks(["none"]), "none"),))) == ""
