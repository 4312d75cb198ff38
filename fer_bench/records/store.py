"""Records on disk: atomic save, load, list, remove."""

import io
import json
import math
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench.errors import UserError, meant
from fer_bench.files import locked, sha256_bytes, write_atomic
from fer_bench.records.contents import array_problems, as_stored
from fer_bench.records.identity import stem, stem_of
from fer_bench.records.schema import Record, broken, inconsistent, misplaced

LINE_WIDTH = 180  # an epoch of the history stays on one line
LOCK_SECONDS = 60.0  # then a record is written all the same: each file by itself appears whole
MOST_BYTES = 1 << 28  # of an .npz unpacked: a thousand times what a view set takes


def save(board: Path, record: Record, arrays: dict[str, np.ndarray] | None) -> Path:
    """Write a record and its arrays to a board and return the JSON's path; ``arrays`` is None for a failure.

    Probabilities are kept as float16 and ``predictions`` is filled in, in the file and not in ``record``. A record of
    the same name is replaced; a crash at any point leaves the old one, none, or the new one. What breaks the schema, or
    has no place on the board ``benchmark`` (toy faces, limited runs), is a UserError and nothing is written.
    """
    path, npz = _paths(board, stem_of(record))
    stored = None if arrays is None else {key: _stored(key, arrays[key]) for key in sorted(arrays)}
    data = None if stored is None else _npz_bytes(stored)
    if data is not None:
        record = {**record, "predictions": {"file": f"{npz.parent.name}/{npz.name}", "sha256": sha256_bytes(data)}}
    problem = broken(record) or inconsistent(record) or misplaced(board, record)
    if not problem and stored is not None:
        problem = next(array_problems(record, stored), None)
    if problem:
        raise UserError(f"{path}: {problem}")
    board.mkdir(parents=True, exist_ok=True)
    with locked(board, LOCK_SECONDS):
        _replace(path, _json_bytes(record), npz, data)
    return path


def remove(board: Path, record: Record) -> None:
    """Delete a record, the JSON first."""
    for path in _paths(board, stem_of(record)):
        path.unlink(missing_ok=True)


def load(path: Path) -> Record:
    """Read one JSON; a torn or renamed file, another schema version, an unknown or missing key is a UserError."""
    try:
        record = json.loads(path.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a whole JSON file ({error}); delete it and run again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); a record is a file") from None
    if problem := broken(record):
        raise UserError(f"{path}: {problem}")
    try:
        expected = stem_of(record) + ".json"
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if path.name != expected:
        raise UserError(f"{path}: holds the record of {expected}; give the file its name back")
    return record


def _no_number(word: str) -> float:
    """Refuse NaN and Infinity, which Python writes and reads and JSON does not know."""
    raise ValueError(f"{word} is no number")


def load_all(board: Path) -> list[Record]:
    """Read every record of a board, ordered by name, then seed, then fold; a board that does not exist has none."""
    found = [load(path) for path in (board / "results").glob("*.json")]
    return sorted(found, key=_place)


def _place(record: Record) -> tuple[str, int, int]:
    seed, fold = (-1 if number is None else number for number in (record["seed"], record.get("fold")))
    return record["name"], seed, fold


def find(board: Path, name: str, seed: int | None, fold: int | None = None) -> Record | None:
    """Read the record of one name, seed and fold (None for what has none), or return None where it is not there."""
    path, _ = _paths(board, stem(name, seed, fold))
    return load(path) if path.is_file() else None


def called(board: Path, title: str) -> Record:
    """Read the scored record of a name, of its lowest seed where it has several, or of ``NAME.sSEED[.fFOLD]``."""
    everything = load_all(board)
    scored = [record for record in everything if record["kind"] != "failure"]
    for record in scored:
        if title == stem_of(record) or (title == record["name"] and record["kind"] != "fold"):
            return record
    names = sorted({record["name"] for record in scored})
    raise UserError(f"{board}: no record is called {title!r}; {meant(title, names)}")


def arrays(board: Path, record: Record) -> dict[str, np.ndarray]:
    """Read a record's arrays, after their SHA-256: a missing or altered .npz is a UserError."""
    _, npz = _paths(board, stem_of(record))
    if not npz.is_file():
        what = "is a folder" if npz.is_dir() else "missing"
        raise UserError(f"{npz}: {what}; restore it, or delete the record and run again")
    data = npz.read_bytes()
    if sha256_bytes(data) != record["predictions"]["sha256"]:
        raise UserError(f"{npz}: its SHA-256 is not the one in the record; restore it, or delete both and run again")
    return _unpacked(npz, data)


def _unpacked(npz: Path, data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays in the bytes of an .npz; a damaged one, or one that would fill the memory, is a UserError."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MOST_BYTES:
                raise ValueError(f"{size:,} bytes unpacked, at most {MOST_BYTES:,} are read")
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
    except Exception as error:  # damaged bytes fail in many ways: zip, header, shape, memory
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{npz}: is no readable .npz ({reason}); restore it, or delete both and run again") from error


def _array(data: bytes) -> np.ndarray:
    """Return the array in the bytes of an .npy, as ``np.load`` does, which parses every header anew: half its time."""
    length = 10 + int.from_bytes(data[8:10], "little")
    shape, is_fortran, kind = _header(data[:length]) if data[6:8] == b"\x01\x00" else ((), True, np.dtype(object))
    if is_fortran or kind.hasobject:  # nothing that this package writes
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return np.frombuffer(bytearray(data), kind, count=math.prod(shape), offset=length).reshape(shape)


@lru_cache(maxsize=64)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type that the first bytes of an .npy of version 1.0 declare."""
    file = io.BytesIO(head)
    np.lib.format.read_magic(file)
    return np.lib.format.read_array_header_1_0(file)


def adopt(board: Path, other: Path, record: Record) -> Path:
    """Copy a record's two files from another board byte for byte, as ``save`` would write them; the JSON's path."""
    (path, npz), (their_path, their_npz) = (_paths(folder, stem_of(record)) for folder in (board, other))
    _replace(path, their_path.read_bytes(), npz, None if record["kind"] == "failure" else their_npz.read_bytes())
    return path


def files(board: Path, record: Record) -> dict[str, Path]:
    """Return the files of a record by their path relative to the board."""
    kept = _paths(board, stem_of(record))[: 1 if record["kind"] == "failure" else 2]
    return {path.relative_to(board).as_posix(): path for path in kept}


def stray_files(board: Path) -> list[str]:
    """List what a crash left in ``results`` and ``predictions`` and no record owns, relative to the board."""
    owned = set()
    for record in load_all(board):
        path, npz = _paths(board, stem_of(record))
        owned |= {path} if record["kind"] == "failure" else {path, npz}
    files = {path for folder in ("results", "predictions") for path in (board / folder).glob("*")}
    left = {path for path in files - owned if path.suffix in (".json", ".npz", ".tmp")}
    return sorted(path.relative_to(board).as_posix() for path in left)


def _paths(board: Path, file: str) -> tuple[Path, Path]:
    """Return where the JSON and .npz of a record with that file stem are."""
    return board / "results" / f"{file}.json", board / "predictions" / f"{file}.npz"


def _replace(path: Path, text: bytes, npz: Path, data: bytes | None) -> None:
    """Write both files in the order that never lets a JSON stand beside an .npz that is not its own."""
    if data is not None and not (npz.is_file() and npz.read_bytes() == data):
        path.unlink(missing_ok=True)
        write_atomic(npz, data)
    write_atomic(path, text)
    if data is None:
        npz.unlink(missing_ok=True)


def _stored(key: str, values: np.ndarray) -> np.ndarray:
    """Return an array in the type that its key calls for: labels uint8, row numbers int32, probabilities float16."""
    integers = {"labels": np.uint8, "rows": np.int32}.get(key.rsplit("/", 1)[-1])
    return as_stored(values) if integers is None else np.asarray(values).astype(integers)


def _npz_bytes(stored: dict[str, np.ndarray]) -> bytes:
    """Return the .npz, the same bytes for the same arrays: numpy dates every entry 1980."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **stored)
    return buffer.getvalue()


def _json_bytes(record: Record) -> bytes:
    return (_pretty(record) + "\n").encode()


def _pretty(value: Any, indent: str = "") -> str:
    """Return indented JSON that keeps on one line what fits, so that one changed epoch is one changed line."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, dict | list) or len(indent) + len(line) <= LINE_WIDTH:
        return line
    inner = indent + "  "
    if isinstance(value, dict):
        rows = [f"{inner}{json.dumps(key)}: {_pretty(child, inner)}" for key, child in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _pretty(child, inner) for child in value) + f"\n{indent}]"
