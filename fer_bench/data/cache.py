"""Decoded arrays on disk, keyed by the content they came from, so that a second load takes no parsing."""

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench.data.faces import Faces, digest
from fer_bench.data.sums import state
from fer_bench.files import canonical_json, write_atomic

PARSER = 2  # raise when the parser reads the same bytes differently, or when entries look otherwise
FACTS = ("digest", "canonical", "source", "skipped", "name")


def key(form: str, contents: list[str], skip_bad_rows: bool) -> str:
    """The name of a cache entry: form, sha256 of each file, parser version and what happens to bad rows."""
    facts = {"parser": PARSER, "form": form, "contents": contents, "skip_bad_rows": skip_bad_rows}
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def read(folder: Path, name: str) -> Faces | None:
    """The faces of an entry, their images mapped from its file; None if it is absent or not what was written.

    Images are believed while size, times and inode of their file are those of the writing, else where the arrays
    have the digest stored with them.
    """
    try:
        with open(folder / f"{name}.npz", "rb") as file, np.load(file, allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            labels, parts = stored["labels"], stored["parts"]
        path = folder / f"{name}.npy"
        is_untouched = state(path) == facts["state"]
        images = np.asarray(np.load(path, mmap_mode="c"))
        faces = Faces(images, labels, parts, **{fact: facts[fact] for fact in FACTS}, notes=tuple(facts["notes"]))
        is_whole = facts["key"] == name and (is_untouched or digest(images, labels, parts) == faces.digest)
        return faces if is_whole else None
    except Exception:  # damaged bytes fail in many ways (zip, header, JSON, memory); each means: read the source again
        return None


def write(folder: Path, name: str, faces: Faces) -> None:
    """Store ``faces``; a read-only or full disk leaves no entry and is no error."""
    with contextlib.suppress(OSError):
        write_atomic(folder / f"{name}.npy", _saved(np.save, faces.images))
        facts: dict[str, Any] = {fact: getattr(faces, fact) for fact in FACTS} | {"notes": faces.notes, "key": name}
        text = np.frombuffer(canonical_json(facts | {"state": state(folder / f"{name}.npy")}), np.uint8)
        write_atomic(folder / f"{name}.npz", _saved(np.savez, labels=faces.labels, parts=faces.parts, facts=text))


def _saved(save: Any, *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()
