"""What an audit found, for people: a few lines, a markdown page, and a sheet of examples.

The page and the sheet show images of the data, so they belong into a folder that is not committed.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_bench.audit.findings import Findings
from fer_bench.data import EMOTIONS, PARTS
from fer_bench.files import write_atomic

PAGE, SHEET = "audit.md", "examples.png"
FIT, TEST = PARTS[0], PARTS[2]
MOST = 12  # examples of a kind
ZOOM, GAP, TITLE, CAPTION = 2, 8, 18, 26  # the sheet: size of a pixel, and heights in pixels


@dataclass(frozen=True)
class Examples:
    """One line of the sheet: each example is one row of the data, or two that are compared."""

    title: str
    rows: list[tuple[int, ...]]


def summary(f: Findings) -> str:
    """The findings in a few lines."""
    tests = f.within(TEST)
    exact, twin, other = (tests & mask for mask in (f.exact_twin_in(FIT), f.twin_in(FIT), f.conflict_in(FIT)))
    elsewhere = tests & (f.twin_in(FIT) | f.twin_in(PARTS[1]))
    lines = [
        f"digest               {f.faces.digest}",
        f"exact twins          {_share(exact, tests)} of {TEST} are in {FIT} too, "
        f"{other.sum()} with another label there",
        f"exact or near twins  {_share(twin, tests)} of {TEST} have one in {FIT}, "
        f"{_share(elsewhere, tests)} in another part (correlation >= {f.threshold:g}, mirror included)",
        f"conflicting labels   {f.conflict.sum():,} rows of all parts have an exact twin under another label",
        f"constant images      {f.constant.sum():,} of {len(f.constant):,}, {(tests & f.constant).sum()} in {TEST}",
    ]
    agreed = (
        "no votes given: see --ferplus"
        if f.agrees is None
        else f"agrees on {_share(tests & f.agrees, tests)} of {TEST}"
    )
    return "\n".join([*lines, f"FER+ majority        {agreed}"]) + "\n"


def _share(mask: np.ndarray, among: np.ndarray) -> str:
    return f"{mask.sum():,} ({100 * mask.sum() / max(among.sum(), 1):.1f} %)"


def write(folder: Path, f: Findings) -> Path:
    """Write the page and the sheet of examples into ``folder``; return the page's path."""
    examples = [found for found in _examples(f) if found.rows]
    write_atomic(folder / SHEET, _sheet(f, examples))
    write_atomic(folder / PAGE, _page(f, examples).encode())
    return folder / PAGE


def _page(f: Findings, examples: Sequence[Examples]) -> str:
    listing = [f"- {found.title}: {'; '.join(' and '.join(_name(f, row) for row in rows) for rows in found.rows)}"
               for found in examples]  # fmt: skip
    sections = [
        "# Audit of the data",
        f"```text\n{summary(f)}```",
        "## Rows with an exact twin, by the part that it is in",
        _matrix(f, f.exact_twin_in),
        f"## Rows with an exact or near twin (correlation >= {f.threshold:g}, mirror included)",
        _matrix(f, f.twin_in),
        f"{len(f.pairs.first):,} pairs correlate that closely, {f.pairs.mirrored.sum():,} of them mirrored.",
        *_votes(f),
        f"## Examples\n\n![Examples]({SHEET})\n\nIn the order of the sheet; rows count from 0 within their part.",
        "\n".join(listing),
    ]
    return "\n\n".join(sections) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _matrix(f: Findings, twin_in: Callable[[str], np.ndarray]) -> str:
    inside = {part: twin_in(part) for part in PARTS}
    rows = [[part, *(_share(f.within(part) & inside[other], f.within(part)) for other in PARTS)] for part in PARTS]
    return _table(["rows of", *(f"in {part}" for part in PARTS)], rows)


def _votes(f: Findings) -> list[str]:
    """Agreement of the labels with FER+, a row a class and a column a part."""
    if f.agrees is None:
        return []
    groups = [(name, f.faces.labels == code) for code, name in enumerate(EMOTIONS)]
    groups.append(("all", np.ones(len(f.groups), bool)))
    rows = [[name, *(_share(f.within(p) & of & f.agrees, f.within(p) & of) for p in PARTS)] for name, of in groups]
    note = (
        "The label agrees when more annotators chose it than any other option. Contempt, unknown and no face agree "
        "with no label, nor does a first place that two options share."
    )
    return ["## Labels that the FER+ majority agrees with", _table(["label", *PARTS], rows), note]


def _examples(f: Findings) -> list[Examples]:
    tests, pairs = f.within(TEST), f.pairs
    leaks = [(row, _copy(f, row)) for row in _rows(tests & f.exact_twin_in(FIT) & ~f.conflict_in(FIT))]
    conflicts = [(row, _copy(f, row, other_label=True)) for row in _rows(tests & f.conflict_in(FIT))]
    near = f.groups[pairs.first] != f.groups[pairs.second]
    across = near & (f.faces.parts[pairs.first] != f.faces.parts[pairs.second])
    disagree = [] if f.agrees is None else [(row,) for row in _rows(tests & ~f.agrees)]
    return [
        Examples(f"Exact twins in {TEST} and {FIT}, labels differ", _spread(conflicts)),
        Examples(f"Exact twins in {TEST} and {FIT}, same label", _spread(leaks)),
        Examples("Near twins across parts, the least alike first", _closest_call(f, across & ~pairs.mirrored)),
        Examples("Mirrored twins, the least alike first", _closest_call(f, near & pairs.mirrored)),
        Examples("Constant images", _spread([(row,) for row in _rows(f.constant)])),
        Examples(f"{TEST} images where FER+ disagrees", _spread(disagree)),
    ]


def _rows(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask).tolist()


def _copy(f: Findings, row: int, *, other_label: bool = False) -> int:
    """The first Training row with the pixels of ``row``."""
    same = (f.groups == f.groups[row]) & f.within(FIT)
    return int(np.flatnonzero(same & (f.faces.labels != f.faces.labels[row]) if other_label else same)[0])


def _spread(examples: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """At most MOST of them, evenly spaced."""
    if len(examples) <= MOST:
        return list(examples)
    return [examples[place] for place in np.linspace(0, len(examples) - 1, MOST).astype(int)]


def _closest_call(f: Findings, mask: np.ndarray) -> list[tuple[int, ...]]:
    chosen = np.flatnonzero(mask)
    chosen = chosen[np.argsort(f.pairs.correlation[chosen], kind="stable")][:MOST]
    return [(int(f.pairs.first[place]), int(f.pairs.second[place])) for place in chosen]


def _name(f: Findings, row: int) -> str:
    part = PARTS[f.faces.parts[row]]
    return f"{part} {row - int(np.argmax(f.within(part)))} ({_label(f, row)})"


def _label(f: Findings, row: int) -> str:
    label = EMOTIONS[f.faces.labels[row]] if f.faces.labels[row] >= 0 else "no label"
    if f.majority is None:
        return label
    seen = EMOTIONS[f.majority[row]] if f.majority[row] >= 0 else "none"
    return f"{label}, FER+ {seen}"


def _sheet(f: Findings, examples: Sequence[Examples]) -> bytes:
    """The examples as a PNG: a line a kind, twins side by side, the label of each image below it."""
    from PIL import Image, ImageDraw, ImageFont

    side = ZOOM * f.faces.images.shape[1]
    height = TITLE + side + CAPTION
    widths = [sum(side * len(rows) + 2 * GAP for rows in found.rows) for found in examples]
    sheet = Image.new("L", (max(widths, default=0) + GAP, max(height * len(examples), 1)), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for line, found in enumerate(examples):
        left, top = GAP, line * height + TITLE
        draw.text((left, top - TITLE + 3), found.title, fill=0, font=font)
        for rows in found.rows:
            for row in rows:
                image = Image.fromarray(f.faces.images[row]).resize((side, side), Image.Resampling.NEAREST)
                sheet.paste(image, (left, top))
                draw.multiline_text(
                    (left, top + side + 1), _label(f, row).replace(", ", "\n"), fill=0, font=font, spacing=0
                )
                left += side
            left += 2 * GAP
    buffer = io.BytesIO()
    sheet.save(buffer, format="png")
    return buffer.getvalue()
