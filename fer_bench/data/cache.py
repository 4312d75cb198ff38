"""Decoded arrays on disk, keyed by the content they came from, so that a second load takes no parsing."""

import contextlib
import hashlib
import io
import json
from pathlib import Path

import numpy as np

from fer_bench.data.faces import Faces, digest
from fer_bench.files import canonical_json, write_atomic

PARSER = 1  # raise when the parser reads the same bytes differently
FACTS = ("digest", "canonical", "source", "skipped", "name")


def key(form: str, contents: list[str], skip_bad_rows: bool) -> str:
    """The name of a cache entry: form, sha256 of each file, parser version and what happens to bad rows."""
    facts = {"parser": PARSER, "form": form, "contents": contents, "skip_bad_rows": skip_bad_rows}
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def read(folder: Path, name: str) -> Faces | None:
    """The faces of an entry; None if it is absent, torn, or its arrays do not have the digest stored with them."""
    try:
        with open(folder / f"{name}.npz", "rb") as file, np.load(file, allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            arrays = (stored["images"], stored["labels"], stored["parts"])
        faces = Faces(*arrays, **{fact: facts[fact] for fact in FACTS}, notes=tuple(facts["notes"]))
        return faces if facts["key"] == name and digest(*arrays) == faces.digest else None
    except Exception:  # damaged bytes fail in many ways (zip, header, JSON, memory); each means: read the source again
        return None


def write(folder: Path, name: str, faces: Faces) -> None:
    """Store ``faces``; a read-only or full disk leaves no entry and is no error."""
    facts = {fact: getattr(faces, fact) for fact in FACTS} | {"notes": faces.notes, "key": name}
    file = io.BytesIO()
    text = np.frombuffer(canonical_json(facts), np.uint8)
    np.savez(file, images=faces.images, labels=faces.labels, parts=faces.parts, facts=text)
    with contextlib.suppress(OSError):
        write_atomic(folder / f"{name}.npz", file.getvalue())
