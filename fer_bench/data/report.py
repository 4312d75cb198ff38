"""The text of ``fer-bench data check PATH``."""

from pathlib import Path

import numpy as np

from fer_bench.data.faces import EMOTIONS, OFFICIAL_COUNTS, PARTS, UNLABELLED, Faces
from fer_bench.data.loading import load


def check(path: str | Path | None, skip_bad_rows: bool = False) -> str:
    """Say what was found at ``path``: form, counts a part and class, digest, canonical or not."""
    faces = load(path, skip_bad_rows=skip_bad_rows)
    return "\n".join([*facts(faces), "", *table(faces), *(f"note: {note}" for note in remarks(faces))]) + "\n"


def facts(faces: Faces) -> list[str]:
    """The lines above the table."""
    copy = "canonical (the official md5 sums)" if faces.canonical else "non-canonical copy"
    skipped = f", {faces.skipped} bad skipped" if faces.skipped else ""
    rows = f"{len(faces.labels)}{skipped}"
    return [f"form    {faces.source}", f"rows    {rows}", f"copy    {copy}", f"digest  {faces.digest}"]


def table(faces: Faces) -> list[str]:
    """Counts, a row a class and a column a part, right-aligned."""
    unlabelled = [("unlabelled", UNLABELLED)] if (faces.labels == UNLABELLED).any() else []
    rows: list[tuple[str, ...]] = [("class", *PARTS, "all")]
    for name, label in [*((name, code) for code, name in enumerate(EMOTIONS)), *unlabelled]:
        rows.append((name, *counts(faces, faces.labels == label)))
    rows.append(("all", *counts(faces, np.ones(len(faces.labels), bool))))
    return [f"{row[0]:<10}" + "".join(f"{cell:>13}" for cell in row[1:]) for row in rows]


def counts(faces: Faces, mask: np.ndarray) -> tuple[str, ...]:
    """The rows of ``mask`` in each part, and in all."""
    found = np.bincount(faces.parts[mask], minlength=len(PARTS))
    return (*map(str, found), str(found.sum()))


def remarks(faces: Faces) -> list[str]:
    """What a person should know: the loader's notes, and counts that are not the official ones."""
    found = tuple(np.bincount(faces.parts, minlength=len(PARTS)))
    official = ", ".join(f"{count} {part}" for count, part in zip(OFFICIAL_COUNTS, PARTS, strict=True))
    differs = [f"the official counts are {official}"]
    return [*faces.notes, *(differs if found != OFFICIAL_COUNTS and faces.name == "fer2013" else [])]
