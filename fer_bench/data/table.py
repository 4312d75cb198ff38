"""The CSV forms: columns by header name, pixels decoded with numpy on the bytes of many rows at once."""

import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_bench.data.badrows import BadRows, shown
from fer_bench.data.faces import EMOTIONS, PARTS, SIDE, UNLABELLED
from fer_bench.errors import UserError

PIXELS = SIDE * SIDE
BLOCK_ROWS = 64  # about 0.5 MB of text: the working arrays stay in the processor's cache
MOST_THREADS = 8
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
    """Parse block by block, several at once: numpy leaves Python's lock to others. No rows at all is a UserError."""
    bad, total = BadRows(), 0
    pieces: list[tuple[np.ndarray, ...]] = []
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        for images, labels, parts, good, wrong in in_order(
            pool, functools.partial(parse_block, columns), parsed, 2 * threads
        ):
            pieces.append((images, labels[good], parts[good], np.flatnonzero(good) + total))
            total += len(good)
            for place, why in wrong:
                bad.add(place, why)
    if not total:
        raise UserError(f"{path}: the file has a header and no rows")
    images, labels, parts, index = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return Table(columns, images.reshape(-1, SIDE, SIDE), labels, parts, index, total, bad)


Lines = list[tuple[int, bytes]]
Block = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[tuple[str, str]]]


def in_order(pool: Executor, work: Callable[[Lines], Block], items: Iterable[Lines], ahead: int) -> Iterator[Block]:
    """Yield the results of ``work`` in the order of ``items``, of which no more than so many are held at once."""
    waiting: deque[Future[Block]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def parse_block(columns: tuple[str, ...], block: Lines) -> Block:
    """Pixels of the good rows (G, 2304); labels, parts and goodness of all rows (N,); place and fault of the others."""
    rows = [[field.strip(EDGES) for field in line.split(b",")] for _, line in block]
    whole = [len(fields) == len(columns) for fields in rows]
    images, good = decode(column(columns, rows, "pixels"))
    labels = codes(columns, rows, "emotion", LABELS)
    parts = codes(columns, rows, "usage", USAGES)
    good &= np.array(whole) & (labels != -2) & (parts != -2)
    wrong = [(f"line {block[row][0]}", reason(columns, rows[row])) for row in np.flatnonzero(~good)]
    return images if good.all() else images[good], labels, parts.astype(np.int8), good, wrong


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

    Strict: digits and spaces only, at most three digits a number, 0-255, exactly 2,304 numbers. At each place the
    number that ends there is worked out by passes over all the text; then the places where one ends are picked.
    """
    text = np.frombuffer(b"    " + b" ".join(fields) + b" ", np.uint8)
    bounds = np.cumsum([0] + [len(field) + 1 for field in fields])  # row i is text[4:][bounds[i] : bounds[i + 1]]
    digit = text - np.uint8(48)
    is_digit = (digit < 10).view(np.uint8)
    digit *= is_digit
    here, before, twice_before, thrice_before = (is_digit[4 - back : -1 - back] for back in range(4))
    hundreds = digit[2:-3] * before
    values = digit[3:-2] * np.uint8(10)
    values += digit[4:-1]
    values += hundreds * np.uint8(100)  # 256 to 299 come out as 0 to 43
    too_big = (hundreds > 2) | ((hundreds == 2) & (values < 200))
    faults = too_big.view(np.uint8)
    faults |= before & twice_before & thrice_before
    faults &= here
    faults |= (here | (text[4:-1] == 32)) ^ np.uint8(1)
    ends = np.flatnonzero(here > is_digit[5:])
    counts = np.diff(np.searchsorted(ends, bounds))
    good = counts == PIXELS
    if faults.any():
        good[np.searchsorted(bounds, np.flatnonzero(faults), side="right") - 1] = False
    found = values.take(ends)
    if good.all():
        return found.reshape(-1, PIXELS), good
    images = np.zeros((len(fields), PIXELS), np.uint8)
    images[good] = found[np.repeat(good, counts)].reshape(-1, PIXELS)
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
