"""The CSV forms: columns by header name, pixels decoded with numpy on the bytes of many rows at once."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_bench.data.badrows import BadRows, shown
from fer_bench.data.faces import EMOTIONS, PARTS, SIDE, UNLABELLED
from fer_bench.errors import UserError

PIXELS = SIDE * SIDE
BLOCK_ROWS = 512  # about 4 MB of text: the working arrays stay in the processor's cache
HEADER_LIMIT = 65536
EDGES = b' \t\r\n"'
LABELS = {str(code).encode(): code for code in range(len(EMOTIONS))}
USAGES = {name.encode(): code for code, name in enumerate(PARTS)}
ARCHIVES = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive"}


@dataclass(frozen=True)
class Table:
    """The good rows of one file, in file order, and what was wrong with the others."""

    columns: tuple[str, ...]  # the header, lower case: of "emotion", "usage", "pixels"
    images: np.ndarray  # (N, 48, 48) uint8
    labels: np.ndarray  # (N,) int64, -1 where the file has no emotion column
    parts: np.ndarray  # (N,) int8, -1 where the file has no Usage column
    index: np.ndarray  # (N,) int64: the row's place among the file's data rows, bad ones included
    total: int  # data rows, bad ones included
    bad: BadRows


def read(path: Path) -> Table:
    """Read one CSV file; bad rows are reported in the table, an unusable file is a UserError."""
    try:
        with open(path, "rb") as file:
            columns = header(path, file.readline(HEADER_LIMIT))
            return collect(path, columns, blocks(file))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def header(path: Path, line: bytes) -> tuple[str, ...]:
    """The column names in lower case, or a UserError that says what the first line is instead."""
    if not line.strip():
        raise UserError(f"{path}: the file is empty" if not line else f"{path}: line 1 is blank, expected a header")
    for magic, kind in ARCHIVES.items():
        if line.startswith(magic):
            raise UserError(f"{path}: is {kind}, not a CSV file: unpack it first")
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: line 1 is not UTF-8 text: save the file as UTF-8") from error
    names = tuple(name.strip(EDGES.decode()).lower() for name in text.split(","))
    if "pixels" not in names:
        example = "expected a header such as 'emotion,pixels,Usage'"
        raise UserError(f"{path}: line 1 has no column 'pixels', {example}; got {shown(line.strip(), 60)}")
    for name in ("emotion", "usage", "pixels"):
        if names.count(name) > 1:
            raise UserError(f"{path}: line 1 names the column {name!r} {names.count(name)} times")
    return names


def blocks(file) -> Iterator[list[tuple[int, bytes]]]:
    """Yield (line number, line) of non-blank lines after the header, ``BLOCK_ROWS`` at a time."""
    rows = ((number, line) for number, line in enumerate(file, start=2) if not line.isspace())
    while block := list(itertools.islice(rows, BLOCK_ROWS)):
        yield block


def collect(path: Path, columns: tuple[str, ...], parsed: Iterator[list[tuple[int, bytes]]]) -> Table:
    """Parse block by block; no rows at all is a UserError."""
    bad, total = BadRows(), 0
    pieces: list[tuple[np.ndarray, ...]] = []
    for block in parsed:
        images, labels, parts, good = parse_block(columns, block, bad)
        pieces.append((images, labels[good], parts[good], np.flatnonzero(good) + total))
        total += len(block)
    if not total:
        raise UserError(f"{path}: the file has a header and no rows")
    images, labels, parts, index = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return Table(columns, images.reshape(-1, SIDE, SIDE), labels, parts, index, total, bad)


def parse_block(columns: tuple[str, ...], block: list[tuple[int, bytes]], bad: BadRows) -> tuple[np.ndarray, ...]:
    """Pixels of the good rows (G, 2304); labels, parts and goodness of all rows (N,)."""
    rows = [[field.strip(EDGES) for field in line.split(b",")] for _, line in block]
    whole = [len(fields) == len(columns) for fields in rows]
    images, good = decode(column(columns, rows, "pixels"))
    labels = codes(columns, rows, "emotion", LABELS)
    parts = codes(columns, rows, "usage", USAGES)
    good &= np.array(whole) & (labels != -2) & (parts != -2)
    for row in np.flatnonzero(~good):
        bad.add(f"line {block[row][0]}", reason(columns, rows[row]))
    return images[good], labels, parts.astype(np.int8), good


def column(columns: tuple[str, ...], rows: list[list[bytes]], name: str) -> list[bytes]:
    """One field a row; empty where the row is too short."""
    place = columns.index(name)
    return [fields[place] if place < len(fields) else b"" for fields in rows]


def codes(columns: tuple[str, ...], rows: list[list[bytes]], name: str, table: dict[bytes, int]) -> np.ndarray:
    """Codes (N,) of a text column: -1 everywhere where the file lacks it, -2 where the text is not in ``table``."""
    if name not in columns:
        return np.full(len(rows), UNLABELLED)
    return np.array([table.get(field, -2) for field in column(columns, rows, name)])


def decode(fields: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Decode N fields of decimal pixels at once: (N, 2304) uint8 (zeros in bad rows) and which rows are good (N,).

    Strict: digits and spaces only, at most three digits a number, 0-255, exactly 2,304 numbers.
    """
    text = np.frombuffer(b"   " + b" ".join(fields) + b" ", np.uint8)
    bounds = 3 + np.cumsum([0] + [len(field) + 1 for field in fields])  # row i is text[bounds[i] : bounds[i + 1]]
    digit = text - np.uint8(48)
    is_digit = digit < 10
    digit *= is_digit
    ends = np.flatnonzero(is_digit[:-1] > is_digit[1:])  # the last digit of each number
    hundreds = digit[ends - 2] * is_digit[ends - 1]
    tail = digit[ends - 1] * np.uint8(10) + digit[ends]
    too_big = (hundreds > 2) | ((hundreds == 2) & (tail > 55))
    too_long = is_digit[ends - 1] & is_digit[ends - 2] & is_digit[ends - 3]
    counts = np.diff(np.searchsorted(ends, bounds))
    good = counts == PIXELS
    for places in (np.flatnonzero(~(is_digit | (text == 32))), ends[too_big | too_long]):
        good[np.searchsorted(bounds, places, side="right") - 1] = False
    images = np.zeros((len(fields), PIXELS), np.uint8)
    values = hundreds * np.uint8(100) + tail
    images[good] = (values if good.all() else values[np.repeat(good, counts)]).reshape(-1, PIXELS)
    return images, good


def reason(columns: tuple[str, ...], fields: list[bytes]) -> str:
    """Say what is wrong with one row that failed the fast checks."""
    if len(fields) != len(columns):
        return f"{len(fields)} fields, expected {len(columns)}"
    row = dict(zip(columns, fields, strict=True))
    if "emotion" in row and row["emotion"] not in LABELS:
        return f"emotion is {shown(row['emotion'])}, expected 0 to 6"
    if "usage" in row and row["usage"] not in USAGES:
        return f"Usage is {shown(row['usage'])}, expected {', '.join(PARTS[:-1])} or {PARTS[-1]}"
    numbers = row["pixels"].split()
    for place, number in enumerate(numbers, start=1):
        if not (number.isdigit() and len(number) <= 3 and int(number) <= 255):
            return f"pixel {place} is {shown(number)}, expected an integer 0 to 255"
    if len(numbers) != PIXELS:
        return f"{len(numbers)} pixels, expected {PIXELS}"
    return "pixels are parted by something else than spaces"
