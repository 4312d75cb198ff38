"""FER+: ten annotators looked at each image again (Barsoum et al., 2016); here, what most of them saw.

The file ``fer2013new.csv`` of github.com/microsoft/FERPlus has a row an image in the order of ``fer2013.csv``, with the
number of votes for eight emotions, "unknown" and "NF" (no face).
"""

import csv
from pathlib import Path

import numpy as np

from fer_bench.data import EMOTIONS, PARTS
from fer_bench.errors import UserError

FILE = "fer2013new.csv"
VOTES = {
    "neutral": "Neutral",
    "happiness": "Happy",
    "surprise": "Surprise",
    "sadness": "Sad",
    "anger": "Angry",
    "disgust": "Disgust",
    "fear": "Fear",
    "contempt": None,
    "unknown": None,
    "NF": None,
}
NONE = -1


def beside(data: Path) -> Path | None:
    """The votes file beside the data: in its folder, or in a folder ``fer2013`` there; None where there is none."""
    folder = data.parent if data.is_file() else data
    return next((path for path in (folder / FILE, folder / "fer2013" / FILE) if path.is_file()), None)


def majority(path: Path, parts: np.ndarray) -> np.ndarray:
    """What most annotators saw in each image, (N,) int8, index into EMOTIONS, for rows of ``parts`` (N,).

    It is -1, which agrees with no label, where the most votes went to contempt, unknown or no face, and where two
    options share the first place. Raises UserError for another file, or one whose rows are not those of the data.
    """
    usage, votes = _read(path)
    order = np.argsort(usage, kind="stable")
    found, expected = (np.bincount(codes, minlength=len(PARTS)).tolist() for codes in (usage, parts))
    if found != expected:
        raise UserError(
            f"{path}: rows of {', '.join(PARTS)} are {found}, those of the data {expected}; they must match"
        )
    return _winners(votes[order])


def _winners(votes: np.ndarray) -> np.ndarray:
    """Emotion (N,) with the single largest number of votes (N, 10), or -1."""
    emotions = np.array([EMOTIONS.index(name) if name else NONE for name in VOTES.values()], dtype=np.int8)
    alone = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return np.where(alone, emotions[votes.argmax(axis=1)], NONE).astype(np.int8)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Part (N,) and votes (N, 10) of each row."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := {"Usage", *VOTES} - set(reader.fieldnames or ()):
                raise UserError(
                    f"{path}: no column {', '.join(sorted(missing))}; expected the votes file of FER+, {FILE}"
                )
            rows = [_row(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as the votes file of FER+ ({error})") from None
    numbers = np.array(rows, dtype=np.int64).reshape(len(rows), 1 + len(VOTES))
    return numbers[:, 0], numbers[:, 1:]


def _row(path: Path, line: int, row: dict[str, str]) -> list[int]:
    try:
        return [PARTS.index(row["Usage"].strip()), *(int(row[name]) for name in VOTES)]
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: line {line}: expected a part and {len(VOTES)} whole numbers, got {row}") from None
