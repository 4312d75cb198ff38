"""A pull request in a page: what is wrong with it, then its new rows against the best row and the nearest ones."""

from collections.abc import Iterator
from dataclasses import dataclass

from fer_bench import metrics
from fer_bench.leaderboard import tables
from fer_bench.leaderboard.changes import Judged, said
from fer_bench.leaderboard.gitdiff import Diff
from fer_bench.leaderboard.markdown import (
    NOTHING,
    details,
    escape,
    interval,
    listing,
    p_value,
    percent,
    points_interval,
    table,
)
from fer_bench.leaderboard.proof import Examined
from fer_bench.leaderboard.rows import TEST, Board, Record, Row, title
from fer_bench.records import stem_of

JUDGES = ("fer_bench/", ".github/", ".ci/", "pyproject.toml", "Makefile")
"""What decides this very check: a reviewer should know that a pull request changes it."""
MOST_LINES = 200  # of the page's difference


@dataclass(frozen=True)
class Review:
    """A summary in markdown, and what is wrong: nothing where the pull request may be taken."""

    text: str
    problems: tuple[str, ...]


def review(examined: Examined, judged: Judged, diff: Diff) -> Review:
    """Sum up what the check and the comparison with the merge base found."""
    problems = (*judged.problems, *examined.problems)
    blocks = [_head(diff, problems), _bullets(problems), _difference(examined.difference)]
    if examined.content:
        blocks += [_rows(examined.content, judged), _folds(examined.content, judged), _pairs(examined.content, judged)]
    blocks += [_failures(examined, judged), _remarks(diff, judged)]
    text = "\n\n".join(block for block in blocks if block) + "\n"
    return Review(text.encode(errors="backslashreplace").decode(), problems)  # names of files may be no UTF-8


def _head(diff: Diff, problems: tuple[str, ...]) -> str:
    verdict = {0: "In order", 1: "1 problem"}.get(len(problems), f"{len(problems)} problems")
    return f"## Leaderboard: {verdict.lower()}\n\nAgainst `{escape(diff.ref)}`, merge base `{diff.base[:12]}`."


def _bullets(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def _difference(lines: tuple[str, ...]) -> str:
    """The page's difference in a fold, cut where it gets long; its fence is longer than any inside."""
    if not lines:
        return ""
    more = [f"... and {len(lines) - MOST_LINES} lines more"] if len(lines) > MOST_LINES else []
    body = "\n".join([*lines[:MOST_LINES], *more])
    return details("how the page differs", f"````````diff\n{body}\n````````")


# ---- rows


def _touched(board: Board, judged: Judged) -> list[Row]:
    """The rows with a record that was added or changed, in the order of the board."""
    return [row for row in board.rows if any(_what(record, judged) for record in row.seeds)]


def _what(record: Record, judged: Judged) -> str | None:
    """What happened to a record, None where nothing did."""
    return judged.touched.get(stem_of(record))


def _rows(board: Board, judged: Judged) -> str:
    rows = _touched(board, judged)
    if not rows:
        return "No row comes or changes."
    head = ["rank", "row", "accuracy % [95 %]", "macro-F1 %", "passes", "seeds", "what"]
    return f"### New rows\n\n{table(head, [_row(board, row, judged) for row in rows], 'rlrrrr')}"


def _row(board: Board, row: Row, judged: Judged) -> list[str]:
    passes = row.record["passes"][row.headline]
    return [
        tables.rank(board, row),
        title(row),
        f"{percent(row.mean('accuracy'))} {interval(*tables.accuracy_interval(row))}",
        percent(row.mean("macro_f1")),
        NOTHING if passes is None else str(passes),
        tables.seeds(row),
        _story(row, judged),
    ]


def _folds(board: Board, judged: Judged) -> str:
    """The runs on folds that were added or changed, which have no rows."""
    told = [(stem_of(record), _what(record, judged)) for record in board.records if record["kind"] == "fold"]
    found = listing([f"{stem} ({what})" for stem, what in told if what])
    return f"Runs on folds of Training, without rows of their own: {found}." if found else ""


def _story(row: Row, judged: Judged) -> str:
    """What happened to the row: new, or which of its records are."""
    found = {record["seed"]: _what(record, judged) for record in row.seeds}
    if set(found.values()) == {"new"}:
        return "new"
    told = [what if seed is None else f"seed {seed} {what}" for seed, what in found.items() if what]
    return "; ".join(told)


def _pairs(board: Board, judged: Judged) -> str:
    """Each new row against the best row and its neighbours on the board, on the declared seeds."""
    fair = board.fair
    cells = [
        [title(row), which, title(other), percent(other.mean("accuracy")), *_pair(row, other)]
        for row in _touched(board, judged)
        if row in fair
        for which, other in _others(fair, fair.index(row))
    ]
    if not cells:
        return ""
    head = ["row", "against", "other row", "its accuracy %", "difference, points [95 %]", "p"]
    notes = (
        f"On {TEST}, paired over images on the declared seeds: a 95 % bootstrap interval, and the exact McNemar test "
        "of that pair alone. Ranks overlap where all pairs together, Holm-corrected, cannot be told apart."
    )
    return f"### Against other rows\n\n{table(head, cells, 'lllrrl')}\n\n{notes}"


def _others(rows: tuple[Row, ...], place: int) -> Iterator[tuple[str, Row]]:
    """The best row, the one above and the one below, each once."""
    if place > 1:
        yield "best", rows[0]
    if place:
        yield "best, next above" if place == 1 else "next above", rows[place - 1]
    if place + 1 < len(rows):
        yield "next below", rows[place + 1]


def _pair(row: Row, other: Row) -> list[str]:
    right = row.right(), other.right()
    return [points_interval(*metrics.paired_bootstrap(*right)), p_value(metrics.mcnemar_exact(*right))]


def _failures(examined: Examined, judged: Judged) -> str:
    found = examined.content.failures if examined.content else ()
    lines = [f"{tables.run_title(r)}: {r['failure']['message']}" for r in found if _what(r, judged)]
    return f"### Failed runs\n\n{_bullets(tuple(lines))}" if lines else ""


# ---- what a reviewer should know besides


def _remarks(diff: Diff, judged: Judged) -> str:
    notes = list(judged.notes)
    if judges := [said(path) for path in diff.outside if path.startswith(JUDGES)]:
        shown = listing([*judges[:5], *([f"{len(judges) - 5} more"] if len(judges) > 5 else [])])
        notes.append(f"changes what this check is made of, so read that first: {shown}")
    if diff.uncommitted:
        notes.append(f"{diff.uncommitted} of the files judged are not in the last commit as they are")
    return f"### To look at\n\n{_bullets(tuple(notes))}" if notes else ""
