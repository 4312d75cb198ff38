"""What a person gives to ``predict`` -> faces: an image, a folder of images, or any form of FER2013.

PrivateTest is the test part also here: its labelled rows are left out unless they are asked for, and whoever asks is
noted as a look. Rows without labels, as those of Kaggle's test.csv, cannot be scored and are predicted like images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_bench import data
from fer_bench.data.faces import UNLABELLED
from fer_bench.errors import UserError

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
TEST = data.PARTS.index("PrivateTest")

Open = Callable[[data.Faces], np.ndarray]
"""Opens PrivateTest and notes the look: faces -> its images (N, 48, 48) uint8."""


@dataclass(frozen=True)
class Source:
    """N faces to predict, what each row is called, and what a person should hear."""

    rows: tuple[str, ...]  # file name, or part and row
    images: np.ndarray  # (N, 48, 48) uint8
    notes: tuple[str, ...] = ()


def read(path: Path, parts: Sequence[str], open_test: Open) -> Source:
    """Read what ``path`` holds; ``parts`` narrows FER2013 data down to these parts.

    Raises:
        UserError: one line, where nothing can be read or nothing is left.
    """
    images = _images(path)
    if images:
        if parts:
            raise UserError(f"--part {parts[0]}: {path} holds images, which have no part; leave the option out")
        return Source(tuple(image.name for image in images), np.stack([_read_image(image) for image in images]))
    return _of_parts(_load(path), parts, open_test)


def _images(path: Path) -> list[Path]:
    """Image files at a path, itself or directly in it."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return [file for file in found if file.suffix.lower() in IMAGE_TYPES and file.is_file()]


def _load(path: Path) -> data.Faces:
    """FER2013 at a path; what is wrong in words that fit somebody who may have meant images."""
    kinds = ", ".join(IMAGE_TYPES)
    try:
        return data.load(path)
    except UserError as error:
        said = str(error)
        if "nothing recognised" in said:
            raise UserError(f"{path}: holds no image ({kinds}) and no form of FER2013") from None
        if "line 1" in said and path.suffix.lower() == ".csv":
            raise UserError(
                f"{path}: line 1 names no column 'pixels', where a CSV file to predict has its faces"
            ) from None
        if "line 1" in said:
            raise UserError(f"{path}: is no image ({kinds}) and no CSV file of faces") from None
        raise UserError(said.replace(", or drop such rows with --skip-bad-rows", "")) from None


def _of_parts(faces: data.Faces, parts: Sequence[str], open_test: Open) -> Source:
    codes = [data.PARTS.index(part) for part in parts]
    test = (faces.parts == TEST) & (faces.labels != UNLABELLED)
    keep = np.isin(faces.parts, codes) if codes else ~test
    asked = f"{test.sum():,} PrivateTest rows" if test.any() else ""
    if not keep.any():
        only = f"only {asked}; --part PrivateTest predicts them and notes the look"
        none = f"has no rows of {', '.join(parts)}"
        raise UserError(f"{faces.source}: {none if codes else only}")
    images = faces.images[keep & ~test]
    opened = (keep & test).any()
    if opened:
        images = np.concatenate([images, open_test(faces)])  # canonical order: PrivateTest is last
    notes = [f"{asked} are opened: the look is noted"] if opened else []
    if asked and not opened and not codes:
        notes = [f"{asked} are left out, the test part: --part PrivateTest predicts them and notes the look"]
    rows = tuple(f"{data.PARTS[faces.parts[row]]} {row}" for row in np.flatnonzero(keep))
    return Source(rows, images, tuple(notes))


def _read_image(path: Path) -> np.ndarray:
    """The face as gray (48, 48) uint8, scaled where it has another size."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            gray = image.convert("L")
            size = (data.SIDE, data.SIDE)
            return np.asarray(gray if gray.size == size else gray.resize(size, Image.Resampling.BICUBIC))
    except Exception as error:  # damaged bytes fail in any part of a decoder
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        raise UserError(f"{path}: is no readable image; it may be damaged or cut off") from error
