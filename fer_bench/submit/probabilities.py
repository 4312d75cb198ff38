"""A file from outside -> probabilities in official order, or what is wrong with it."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from fer_bench import records
from fer_bench.data import EMOTIONS
from fer_bench.errors import UserError

PARTS = ("PublicTest", "PrivateTest")
HALF_TOLERANCE = 1e-2  # on a row's sum: a softmax in float16 rounds seven times
TOLERANCE = 1e-3
RANGE_TOLERANCE = 1e-6  # a rounding below 0 is mended, a logit is not
FAR_BETTER = 0.10  # share of PublicTest; no honest column order gains a tenth by being another
ALPHABETICAL = tuple(sorted(EMOTIONS))


def read(file: Path) -> dict[str, np.ndarray]:
    """Probabilities (3589, 7) float64 of both parts, rows divided by their sums; anything else is a UserError."""
    found = _load(file)
    missing = [part for part in PARTS if part not in found]
    if missing:
        held = ", ".join(found) or "none"
        raise UserError(f"{file}: holds no array {' and '.join(missing)}; found {held}; np.savez names them by keyword")
    for part in PARTS:
        if problem := wrong_probabilities(found[part], records.WHOLE[part]):
            raise UserError(f"{file}: {part}: {problem}")
    if np.array_equal(found["PublicTest"], found["PrivateTest"]):
        raise UserError(f"{file}: PublicTest and PrivateTest hold the same rows; give each part its own predictions")
    return {part: _normalised(found[part]) for part in PARTS}


def _load(file: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz; objects, which only pickle could read, are refused."""
    if not zipfile.is_zipfile(file):
        raise UserError(f"{file}: {'not an .npz file; write it with np.savez' if file.exists() else 'no such file'}")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{file}: not an .npz of plain arrays ({why}); write it with np.savez") from None


def wrong_probabilities(values: np.ndarray, rows: int) -> str | None:
    """Say why ``values`` cannot be class probabilities (``rows``, 7), with a hint where the mistake is a common one."""
    if values.dtype.kind not in "fiu":
        return f"must be numbers, float16 to float64; got {values.dtype}"
    if values.shape != (rows, len(EMOTIONS)):
        return f"must be ({rows}, {len(EMOTIONS)}), official rows by classes; got {values.shape}"
    if not np.isfinite(values).all():
        return f"row {_first(~np.isfinite(values).all(axis=1))} is not finite"
    numbers, tolerance = values.astype(np.float64), HALF_TOLERANCE if values.dtype == np.float16 else TOLERANCE
    outside = (numbers.min(axis=1) < -RANGE_TOLERANCE) | (numbers.max(axis=1) > 1 + tolerance)
    sums: np.ndarray = numbers.sum(axis=1)
    off: np.ndarray = np.abs(sums - 1) > tolerance
    if not (outside | off).any():
        return None
    row = _first(outside) if outside.any() else _first(off)
    found = f"{numbers[row].min():.4g} to {numbers[row].max():.4g}, sum {sums[row]:.4g}"
    return f"must be 0-1 with rows that sum to 1; row {row} holds {found}; {_hint(numbers, sums)}"


def _hint(numbers: np.ndarray, sums: np.ndarray) -> str:
    """What the numbers look like, and what turns them into probabilities."""
    if (numbers <= 0).all() and np.allclose(np.exp(numbers).sum(axis=1), 1, atol=HALF_TOLERANCE):
        return "these look like log-probabilities: apply exp"
    if (numbers >= 0).all() and np.allclose(sums, 100, atol=1):
        return "these look like percent: divide by 100"
    if (numbers >= 0).all() and (numbers <= 1).all():
        return "these look like one sigmoid a class: apply softmax to the logits instead"
    return "these look like logits: apply softmax over the classes"


def _first(rows: np.ndarray) -> int:
    return int(np.flatnonzero(rows)[0])


def _normalised(values: np.ndarray) -> np.ndarray:
    clipped = np.clip(values.astype(np.float64), 0, 1)
    return clipped / clipped.sum(axis=1, keepdims=True)


def order_warnings(probabilities: np.ndarray, labels: np.ndarray) -> tuple[str, ...]:
    """Say whether columns or rows seem to be in another order than the official one, judged on PublicTest (N, 7), (N,).

    Of all 5,040 orders of the columns the best is found as an assignment of columns to classes that maximises the
    number of right answers.
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((len(EMOTIONS),) * 2, dtype=np.int64)  # truth, column with the highest probability
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    truth, column = linear_sum_assignment(counts, maximize=True)
    given, best = counts.trace() / len(labels), counts[truth, column].sum() / len(labels)
    majority = np.bincount(labels).max() / len(labels)
    if best - given >= FAR_BETTER:
        return (_column_warning(given, best, tuple(EMOTIONS[t] for t in truth[np.argsort(column)])),)
    if best < majority:
        return (
            f"{100 * given:.2f} % on PublicTest, and always answering one class gives {100 * majority:.2f} %: "
            "are the rows of each part in the order of fer2013.csv?",
        )
    return ()


def _column_warning(given: float, best: float, order: tuple[str, ...]) -> str:
    name = "the alphabetical order, " if order == ALPHABETICAL else ""
    return (
        f"the columns seem to be in another order: as given they score {100 * given:.2f} % on PublicTest, read as "
        f"{name}{', '.join(order)}, they would score {100 * best:.2f} %. The official order is "
        f"{', '.join(EMOTIONS)}: reorder the columns and submit again with --force"
    )
