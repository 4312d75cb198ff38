"""The image-folder form: train/<emotion>/Training_123.png, test/<emotion>/PublicTest_28709.jpg.

Kaggle's copy merges both test parts in one folder; part and order come back from the file names.
"""

import hashlib
import io
import re
from pathlib import Path

import numpy as np

from fer_bench.data.badrows import BadRows, shown
from fer_bench.data.faces import EMOTIONS, PARTS, SIDE, Faces, assemble
from fer_bench.errors import UserError

SOURCE = "image folders"
SPLITS = ("train", "test", "validation", "val")
SUFFIXES = (".png", ".jpg", ".jpeg")
VARIANTS = {
    "Angry": ("anger",),
    "Disgust": ("disgusted",),
    "Fear": ("fearful", "afraid", "scared"),
    "Happy": ("happiness", "happily"),
    "Sad": ("sadness",),
    "Surprise": ("surprised",),
    "Neutral": ("neutrality",),
}
FOLDERS = {word: code for code, name in enumerate(EMOTIONS) for word in (name.lower(), *VARIANTS[name])}
STEM = re.compile(r"(training|publictest|privatetest)_(\d+)", re.IGNORECASE)
MISNAMED = "the name does not begin with Training_, PublicTest_ or PrivateTest_ and a number"
CODES = {name.lower(): code for code, name in enumerate(PARTS)}


def class_folders(root: Path) -> list[Path]:
    """Every folder in train, test or a validation folder below ``root``, in a fixed order; hidden ones are left out."""
    splits = [entry for entry in sorted(root.iterdir()) if entry.name.lower() in SPLITS and entry.is_dir()]
    inner = [entry for split in splits for entry in sorted(split.iterdir()) if entry.is_dir()]
    return [entry for entry in inner if not entry.name.startswith((".", "__"))]


def present(root: Path) -> bool:
    """Whether ``root`` holds emotion folders below train or test."""
    return any(entry.name.lower() in FOLDERS for entry in class_folders(root))


def files(root: Path) -> list[tuple[int, Path]]:
    """(label, image file), sorted by path; other files are left alone."""
    inner = class_folders(root)
    for folder in inner:
        if folder.name.lower() not in FOLDERS:
            raise UserError(f"{folder}: the folder's name is no emotion, expected one of {', '.join(sorted(FOLDERS))}")
    found = [
        (FOLDERS[folder.name.lower()], entry)
        for folder in inner
        for entry in sorted(folder.iterdir())
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
    ]
    if not found:
        raise UserError(f"{root}: its emotion folders hold no {', '.join(SUFFIXES)} file")
    return found


def content_of(path: Path) -> bytes:
    """The bytes of an image file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it should be an image file") from None


def content(root: Path) -> str:
    """Sha256 over the relative names and the bytes of all images."""
    total = hashlib.sha256()
    for _, path in files(root):
        data = content_of(path)
        total.update(f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode("utf-8", "surrogateescape"))
        total.update(data)
    return total.hexdigest()


def read(root: Path, skip_bad_rows: bool) -> Faces:
    """Decode every image; order is by the number in the file name, within its part."""
    bad, rows, found = BadRows(), [], files(root)
    seen: set[tuple[str, int]] = set()
    for label, path in found:
        match = STEM.fullmatch(path.stem)
        image = (misplaced(root, path, match, seen) or decode(path)) if match else MISNAMED
        if match is None or isinstance(image, str):
            bad.add(path.relative_to(root).as_posix(), str(image))
        else:
            rows.append((CODES[match[1].lower()], int(match[2]), label, path.name, image))
    if not skip_bad_rows or not rows:
        bad.refuse(root, len(found))
    rows.sort(key=lambda row: row[:4])
    parts, _, labels, _, images = zip(*rows, strict=True)
    notes = ("JPEG pixels differ a little from the official ones",) if any_jpeg(found) else ()
    return assemble(np.stack(images), np.array(labels), np.array(parts), source=SOURCE, skipped=bad.count, notes=notes)


def misplaced(root: Path, path: Path, match: re.Match[str], seen: set[tuple[str, int]]) -> str | None:
    """What is wrong with where an image lies: beside the wrong parts, or a second time under its number."""
    part, number = match[1].lower(), int(match[2])
    split = path.relative_to(root).parts[0].lower()
    if (split == "train") != (part == "training"):
        return f"its name says {PARTS[CODES[part]]}, but it lies in {split}/"
    if (part, number) in seen:
        return f"the number {number} of {PARTS[CODES[part]]} stands in the name of another image, too"
    seen.add((part, number))
    return None


def any_jpeg(found: list[tuple[int, Path]]) -> bool:
    """Whether any file has been through JPEG, which loses pixels."""
    return any(path.suffix.lower() != ".png" for _, path in found)


def decode(path: Path) -> np.ndarray | str:
    """The gray image (48, 48) uint8, or what is wrong with the file."""
    from PIL import Image, UnidentifiedImageError

    data = content_of(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size != (SIDE, SIDE):
                return f"{image.size[0]} x {image.size[1]} pixels, expected {SIDE} x {SIDE}"
            return np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
        return f"is no readable image (begins with {shown(data[:8])})" if data else "is an empty file"
