"""The official parts, and cuts of Training that keep twins together: folds and the tuning holdout.

PrivateTest is the test: ``open_private_test`` is the one function that hands out its rows.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from fer_bench import twins
from fer_bench.data import PARTS, Faces, require_labels
from fer_bench.errors import UserError

OPEN_PARTS = PARTS[:2]


def part(faces: Faces, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Copies of the images (N, 48, 48) uint8 and labels (N,) int64 of Training or PublicTest; never of PrivateTest."""
    if name not in OPEN_PARTS:
        hint = "; PrivateTest is opened by open_private_test alone" if name == PARTS[2] else ""
        raise ValueError(f"part must be one of {', '.join(OPEN_PARTS)}; got {name!r}{hint}")
    return _rows(faces, name)


def open_private_test(
    faces: Faces, *, purpose: str, run_id: str, note: Callable[[dict[str, str]], None] = lambda look: None
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Images and labels of PrivateTest, and the look that the record of the run has to state.

    ``note`` is given the look first, so that it is kept before anyone sees what it shows.
    """
    images, labels = _rows(faces, PARTS[2])
    time = datetime.now(UTC).isoformat(timespec="seconds")
    look = {"part": PARTS[2], "purpose": purpose, "run_id": run_id, "time": time}
    note(look)
    return images, labels, look


def _rows(faces: Faces, name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = faces.parts == PARTS.index(name)
    if not rows.any():
        raise UserError(f"{faces.source}: holds no {name} rows; fer2013.csv holds all three parts")
    require_labels(faces, name)
    return faces.images[rows], faces.labels[rows]


def counts(faces: Faces) -> dict[str, int]:
    """Rows of each official part."""
    return {name: int((faces.parts == code).sum()) for code, name in enumerate(PARTS)}


def digest(faces: Faces) -> str:
    """Sha256 in hex of which rows, counted in canonical order, belong to which part."""
    total = hashlib.sha256(b"split-v1")
    for code, name in enumerate(PARTS):
        rows = np.flatnonzero(faces.parts == code)
        total.update(f"\n{code} {name} {len(rows)}\n".encode())
        total.update(rows.astype("<i8").tobytes())
    return total.hexdigest()


def folds(images: np.ndarray, labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Fold ids (N,) int64 in 0..k-1, alike in class shares; twins share a fold.

    Whole groups are dealt out, each under the label of its first row. Nearly all groups hold one image, so the class
    shares stay close to those of scikit-learn's StratifiedGroupKFold, which took 12 s a call over the 28,709 rows
    where this took 0.1 s.
    """
    from sklearn.model_selection import StratifiedKFold

    groups, first = _groups(images)
    _need(labels[first], k, f"a split into {k} folds")
    splitter = StratifiedKFold(k, shuffle=True, random_state=seed)
    fold_of_group = np.empty(len(first), dtype=np.int64)
    for fold, (_, held_out) in enumerate(splitter.split(first, labels[first])):
        fold_of_group[held_out] = fold
    return fold_of_group[groups]


def holdout(images: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Mask (N,) bool of held-out rows, about ``fraction`` of each class; twins are on the same side."""
    from sklearn.model_selection import StratifiedShuffleSplit

    if not 0 < fraction < 1:
        raise UserError(f"the holdout fraction must lie between 0 and 1; got {fraction}")
    groups, first = _groups(images)
    _need(labels[first], 2, "a stratified holdout")
    classes = len(np.unique(labels[first]))
    size = min(max(round(fraction * len(first)), classes), len(first) - classes)
    splitter = StratifiedShuffleSplit(1, test_size=size, random_state=seed)
    _, held_out = next(splitter.split(first, labels[first]))
    return np.isin(groups, held_out)


def _groups(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group ids (N,) and the first row of each group (G,)."""
    groups = twins.groups(images)
    return groups, np.unique(groups, return_index=True)[1]


def _need(labels: np.ndarray, least: int, purpose: str) -> None:
    present, sizes = np.unique(labels, return_counts=True)
    if len(sizes) == 0 or sizes.min() < least:
        found = f"class {present[sizes.argmin()]} has {sizes.min()}" if len(sizes) else "there are no rows"
        raise UserError(f"{purpose} needs at least {least} different images of every class; {found}")
