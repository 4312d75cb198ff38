"""Numbers and tables as GitHub-flavoured markdown: fixed decimals, escaped cells."""

import re
from collections.abc import Iterable, Sequence

NOTHING = "–"
TAG = re.compile(r"<(?=[a-zA-Z/!?])")
LONG = 12  # rows of a table that a page shows without folding it


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Return a GFM table; ``align`` is one letter a column (l or r), left where it is shorter than the head."""
    marks = {"l": ":--", "r": "--:"}
    rule = [marks[letter] for letter in align.ljust(len(head), "l")]
    lines = [[escape(cell) for cell in head], rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(cell: str) -> str:
    """Keep a cell in its column and on its line, and tags and mentions of people out of the page."""
    line = " ".join(cell.split()).replace("|", "\\|").replace("@", "&#64;")
    return TAG.sub("&lt;", line) or NOTHING


def details(summary: str, body: str, *, is_open: bool = False) -> str:
    """Return a fold; the blank lines make GitHub render markdown inside."""
    return f"<details{' open' * is_open}><summary>{summary}</summary>\n\n{body}\n\n</details>"


def shelved(summary: str, text: str) -> str:
    """Return a table as it is, or folded under ``summary`` where it has more than ``LONG`` rows."""
    return details(summary, text) if text.count("\n") > LONG + 1 else text


def percent(share: float | None) -> str:
    """0.7312 as 73.12."""
    return NOTHING if share is None else f"{100 * share:.2f}"


def points(difference: float) -> str:
    """-0.0123 as −1.23, in points, always with its sign."""
    hundredths = round(10_000 * difference)
    sign = "−" if hundredths < 0 else "+" if hundredths > 0 else "±"
    return f"{sign}{abs(hundredths) / 100:.2f}"


def interval(low: float, high: float) -> str:
    """An interval of shares, in percent."""
    return f"[{percent(low)}, {percent(high)}]"


def points_interval(difference: float, low: float, high: float) -> str:
    """A difference with its interval, in points."""
    return f"{points(difference)} [{points(low)}, {points(high)}]"


def p_value(p: float) -> str:
    """A p value with three decimals, or the bound below which that says nothing."""
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"


def number(value: float | None, decimals: int) -> str:
    """A number with fixed decimals and thousands separators."""
    return NOTHING if value is None else f"{value:,.{decimals}f}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listing(items: Sequence[str]) -> str:
    """Words as "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
