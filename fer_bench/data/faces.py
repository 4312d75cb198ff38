"""What the rest of the package knows of the data: arrays of faces in canonical order, and their digest."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fer_bench.errors import UserError

EMOTIONS = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
PARTS = ("Training", "PublicTest", "PrivateTest")
SIDE = 48
OFFICIAL_COUNTS = (28709, 3589, 3589)
OFFICIAL_LABELS = {
    "PublicTest": "afe811d806c8d8e521292e926c9edd1c70c94f356a224bfa5fbb4891699c302b",
    "PrivateTest": "19e25aa1d187ba49a99350f0aaf83ff90f86fa2d0f78a0d3c9a6c657eb15823d",
}
"""SHA-256 of the labels of the test parts, one byte each, in the order of fer2013.csv: known without the data."""
UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class Faces:
    """N faces in canonical order: Training, PublicTest, PrivateTest, the form's own order within a part."""

    images: np.ndarray  # (N, 48, 48) uint8
    labels: np.ndarray  # (N,) int64, index into EMOTIONS, -1 = unlabelled
    parts: np.ndarray  # (N,) int8, index into PARTS
    digest: str  # sha256 over images, labels and parts: the same for every form of the same data
    canonical: bool  # every file has the md5 sum of the official one
    source: str  # the form: "fer2013.csv", "icml_face_data.csv", "train.csv + test.csv", "image folders", "toy faces"
    skipped: int  # bad rows dropped because the caller asked for it
    name: Literal["fer2013", "toyfaces"] = "fer2013"
    notes: tuple[str, ...] = ()  # what a person should know about this copy, one sentence each


def assemble(
    images: np.ndarray,
    labels: np.ndarray,
    parts: np.ndarray,
    *,
    source: str,
    canonical: bool = False,
    skipped: int = 0,
    name: Literal["fer2013", "toyfaces"] = "fer2013",
    notes: tuple[str, ...] = (),
) -> Faces:
    """Bring rows into canonical order (a stable sort by part) and give them their digest."""
    images, labels, parts = images.astype(np.uint8, copy=False), labels.astype(np.int64), parts.astype(np.int8)
    if (np.diff(parts) < 0).any():
        order = np.argsort(parts, kind="stable")
        images, labels, parts = images[order], labels[order], parts[order]
    return Faces(images, labels, parts, digest(images, labels, parts), canonical, source, skipped, name, notes)


def digest(images: np.ndarray, labels: np.ndarray, parts: np.ndarray) -> str:
    """Sha256 in hex over rows in canonical order; byte order and platform do not matter."""
    total = hashlib.sha256(f"faces-v1 {len(labels)}\n".encode())
    for array, kind in ((images, "u1"), (labels, "<i8"), (parts, "i1")):
        total.update(np.ascontiguousarray(array, dtype=kind).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def require_labels(faces: Faces, part: str | None = None) -> None:
    """Raise a UserError where rows (of ``part``) carry no labels, as those of Kaggle's test.csv: predict them only."""
    rows = faces.labels if part is None else faces.labels[faces.parts == PARTS.index(part)]
    missing = int((rows == UNLABELLED).sum())
    if missing:
        raise UserError(
            f"{faces.source}: {missing} {part or 'test'} rows carry no labels: they can be predicted "
            "(`fer-bench predict`), not scored; fer2013.csv and icml_face_data.csv hold the labels of all three parts"
        )
