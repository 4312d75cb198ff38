"""The arrays beside a record: in which types they are kept, and what may be wrong with them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fer_bench.data.faces import EMOTIONS
from fer_bench.files import sha256_bytes

CLASSES = len(EMOTIONS)
SUM_TOLERANCE = 1e-3  # float16 moves the sum of a row by 5e-4 at most

Record = dict[str, Any]


def as_stored(probabilities: np.ndarray) -> np.ndarray:
    """Return probabilities (N, 7) as float16, bit for bit what a record keeps; figures are computed from this."""
    return np.asarray(probabilities).astype(np.float16)


def predicted(stored: np.ndarray) -> np.ndarray:
    """Return the most probable class (N,) uint8 of stored probabilities (N, 7), ties to the lower class.

    Float16 from 0 up is in the order of its bits, and numpy compares integers in two thirds of the time.
    """
    return stored.view(np.int16).argmax(axis=1).astype(np.uint8)


def probabilities_sha256(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 in hex over the probabilities as stored, in the order of their keys: what a submitted row is known by."""
    keys = sorted(key for key in arrays if not key.endswith("/labels"))
    return sha256_bytes(b"".join(key.encode() + as_stored(arrays[key]).astype("<f2").tobytes() for key in keys))


def rows_sha256(rows: np.ndarray) -> str:
    """SHA-256 in hex of row numbers (n,) as little-endian 32-bit integers: what a fold of Training is known by."""
    return sha256_bytes(rows.astype("<i4").tobytes())


def array_problems(record: Record, arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield what is wrong with a record's arrays: keys, rows, shapes, types, values."""
    held_out = record["kind"] == "fold"
    expected = {f"{part}/{leaf}" for part in record["figures"] for leaf in [*record["views"], "labels"]}
    expected |= {"Training/labels", "Training/rows"} if held_out else set()
    if set(arrays) != expected or not arrays:
        yield f"arrays {sorted(arrays)} must be {sorted(expected)}"
        return
    for part in record["figures"]:
        rows, counted = arrays[f"{part}/labels"].size, record["data"]["counts"].get(part)
        if rows != counted and not record.get("limited") and not (held_out and part == "Training"):
            yield f"{part}: {rows} labels, and data.counts says {counted}"
        for view in record["views"]:
            if problem := _wrong_values(arrays[f"{part}/labels"], arrays[f"{part}/{view}"]):
                yield f"{part}/{view}: {problem}"
    if held_out and (problem := _wrong_rows(record, arrays["Training/rows"], len(arrays["Training/labels"]))):
        yield f"Training/rows: {problem}"
    hashed = record["identity"].get("probabilities_sha256")
    if record["kind"] == "external" and hashed != (found := probabilities_sha256(arrays)):
        yield f"identity.probabilities_sha256: {hashed} is not that of the stored arrays, {found}"


def _wrong_rows(record: Record, rows: np.ndarray, labels: int) -> str | None:
    """Say why these cannot be the rows (n,) of Training that a fold run holds out, or None."""
    total, hashed = record["data"]["counts"]["Training"], record["identity"]["fold"].get("rows_sha256")
    if rows.dtype != np.int32 or rows.shape != (labels,):
        return f"must be int32 ({labels},); got {rows.dtype} {rows.shape}"
    if not len(rows) or rows[0] < 0 or rows[-1] >= total or (np.diff(rows) <= 0).any():
        return f"must rise within 0 to {total - 1}"
    return None if (found := rows_sha256(rows)) == hashed else f"SHA-256 {found}, but the identity has {hashed}"


def _wrong_values(labels: np.ndarray, probabilities: np.ndarray) -> str | None:
    """Say why these cannot be labels (N,) and probabilities (N, 7), or None."""
    if labels.dtype != np.uint8 or probabilities.dtype != np.float16:
        return f"labels must be uint8 and probabilities float16; got {labels.dtype}, {probabilities.dtype}"
    if labels.ndim != 1 or not len(labels) or probabilities.shape != (len(labels), CLASSES):
        return f"labels must be (N,) and probabilities (N, {CLASSES}); got {labels.shape}, {probabilities.shape}"
    if labels.max() >= CLASSES:
        return f"label {labels.max()} is not in 0-{CLASSES - 1}"
    sums = probabilities.astype(np.float64).sum(axis=1)
    if not (probabilities >= 0).all() or not (np.abs(sums - 1) <= SUM_TOLERANCE).all():
        return "probabilities must be 0-1 with rows that sum to 1"
    return None
