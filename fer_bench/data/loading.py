"""From a path that a person gives to ``Faces``: find the form, read it, keep the decoded arrays."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_bench.allocation import keep_freed_memory, release_freed_memory
from fer_bench.data import cache as stored
from fer_bench.data import folders, sums, table
from fer_bench.data.faces import OFFICIAL_COUNTS, Faces, assemble
from fer_bench.errors import UserError
from fer_bench.files import cache_dir

OFFICIAL_MD5 = {
    "f8428a1edbd21e88f42c73edd2a14f95",  # fer2013.csv
    "b114b9e04e6949e5fe8b6a98b3892b1d",  # icml_face_data.csv
    "3f0dfb3d3fd99c811a1299cb947e3131",  # train.csv
    "b02c2298636a634e8c2faabbf3ea9a23",  # test.csv
}
ENVIRONMENT = "FER_BENCH_DATA_DIR"
LOOKED_FOR = (
    "fer2013.csv, icml_face_data.csv, train.csv and test.csv, or image folders train/<emotion>/Training_*.jpg|png "
    "and test/<emotion>/PublicTest_*, PrivateTest_*; here and in a folder fer2013/"
)


@dataclass(frozen=True)
class Found:
    """What lies at a path: one or two CSV files, or a root of image folders."""

    form: str
    paths: tuple[Path, ...]


def load(path: str | Path | None = None, *, skip_bad_rows: bool = False, cache: Path | None = None) -> Faces:
    """Load FER2013 from a file, a folder or torchvision's layout; ``path`` None means $FER_BENCH_DATA_DIR.

    ``cache`` is the folder of decoded arrays, by default ``faces`` in the cache folder. Raises UserError for a
    path that holds no form of FER2013, for a file that changes meanwhile and, unless ``skip_bad_rows``, for bad rows.
    """
    found = find(given(path))
    folder = cache or cache_dir() / "faces"
    before = written(found)
    name = stored.key(found.form, contents(found, folder), skip_bad_rows)
    faces = stored.read(folder, name)
    if faces is None:
        keep_freed_memory()
        faces = read(found, skip_bad_rows)
        release_freed_memory()
        if written(found) != before:
            raise UserError(f"{found.paths[0]}: changed while it was read; try again when nothing writes to it")
        stored.write(folder, name, faces)
    return faces


def written(found: Found) -> list[list[int]]:
    """Size and time of the last change of each file, which differ where bytes of before and after it were read."""
    return [sums.state(path)[:2] for path in found.paths if path.is_file()]


def given(path: str | Path | None) -> Path:
    """The path to look at, from the argument or the environment."""
    text = path or os.environ.get(ENVIRONMENT)
    if not text:
        raise UserError(f"no data given: pass --data-dir PATH or set {ENVIRONMENT} (a CSV file or a folder of FER2013)")
    return Path(text).expanduser()


def find(path: Path) -> Found:
    """Recognise the form at ``path``: a CSV file by itself, else the best form in the folder or its ``fer2013/``."""
    if path.is_file():
        return Found("test.csv" if path.stem.lower() == "test" else "csv", (path,))
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    for base in (path, path / "fer2013"):
        found = find_in(base) if base.is_dir() else None
        if found:
            return found
    raise UserError(f"{path}: nothing recognised; looked for {LOOKED_FOR}")


def find_in(folder: Path) -> Found | None:
    """The preferred form directly in ``folder``."""
    files = {entry.name.lower(): entry for entry in sorted(folder.iterdir()) if entry.is_file()}
    for name in ("fer2013.csv", "icml_face_data.csv"):
        if name in files:
            return Found("csv", (files[name],))
    kaggle = tuple(files[name] for name in ("train.csv", "test.csv") if name in files)
    if kaggle:
        return Found(" + ".join(entry.name.lower() for entry in kaggle), kaggle)
    return Found(folders.SOURCE, (folder,)) if folders.present(folder) else None


def contents(found: Found, folder: Path) -> list[str]:
    """Digests of the bytes that the faces are read from; ``folder`` remembers those of files."""
    if found.form == folders.SOURCE:
        return [folders.content(found.paths[0])]
    return [sums.of(path, folder) for path in found.paths]


def read(found: Found, skip_bad_rows: bool) -> Faces:
    """Read the form without the cache."""
    if found.form == folders.SOURCE:
        return folders.read(found.paths[0], skip_bad_rows)
    with ThreadPoolExecutor(len(found.paths)) as pool:
        known = [pool.submit(md5, path) for path in found.paths]
        tables = [table.read(path) for path in found.paths]
    is_official = all(one.result() in OFFICIAL_MD5 for one in known)
    for path, rows in zip(found.paths, tables, strict=True):
        if not skip_bad_rows or rows.bad.count == rows.total:
            rows.bad.refuse(path, rows.total)
    return join(found.paths, tables, is_official)


def join(paths: tuple[Path, ...], tables: list[table.Table], is_official: bool) -> Faces:
    """One ``Faces`` from the good rows of one file, or of train.csv and test.csv."""
    sources, parts, notes = zip(*(describe(path, rows) for path, rows in zip(paths, tables, strict=True)), strict=True)
    return assemble(
        np.concatenate([rows.images for rows in tables]),
        np.concatenate([rows.labels for rows in tables]),
        np.concatenate(parts),
        source=" + ".join(sources),
        canonical=is_official,
        skipped=sum(rows.bad.count for rows in tables),
        notes=tuple(note for file in notes for note in file),
    )


def describe(path: Path, rows: table.Table) -> tuple[str, np.ndarray, list[str]]:
    """The form of one file by its columns, the part of each row (N,), and notes for people."""
    if "usage" in rows.columns:
        icml = rows.columns.index("usage") < rows.columns.index("pixels")
        notes = [] if "emotion" in rows.columns else ["no column 'emotion': the rows carry no labels"]
        return "icml_face_data.csv" if icml else "fer2013.csv", rows.parts, notes
    if path.stem.lower() == "test" or "emotion" not in rows.columns:
        return "test.csv", *test_parts(rows)
    notes = ["train.csv has no column 'Usage': all its rows are Training"]
    return "train.csv", np.zeros(len(rows.labels), np.int8), notes


def test_parts(rows: table.Table) -> tuple[np.ndarray, list[str]]:
    """Parts (N,) of test.csv: PublicTest then PrivateTest by the official counts, else all PrivateTest; and notes."""
    _, public, private = OFFICIAL_COUNTS
    unlabelled = [] if "emotion" in rows.columns else ["test.csv has no labels: its rows can be predicted, not scored"]
    if rows.total == public + private:
        split = f"test.csv has no column 'Usage': its first {public} rows are PublicTest, the rest PrivateTest"
        return np.where(rows.index < public, 1, 2).astype(np.int8), [split, *unlabelled]
    split = f"test.csv has {rows.total} rows, not the official {public + private}: all are taken as PrivateTest"
    return np.full(len(rows.labels), 2, np.int8), [split, *unlabelled]


def md5(path: Path) -> str:
    """The sum by which the official files are known (not a safeguard)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
