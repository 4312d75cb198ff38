"""``audit.json`` on a board: which rows of the test parts have twins in Training, and where FER+ agrees.

The file holds no pixels. Row numbers count from 0 within their part, in canonical order: that of the stored
probabilities. The lists of PrivateTest score rows apart, those of PublicTest tell where a model's errors lie.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fer_bench.audit.findings import Findings
from fer_bench.data import EMOTIONS, PARTS, Faces
from fer_bench.data.faces import OFFICIAL_COUNTS
from fer_bench.errors import UserError
from fer_bench.files import canonical_json, write_atomic

FILE = "audit.json"
FIT, VALIDATION, TEST = PARTS

T = TypeVar("T")


def _every_part(table: dict[str, T]) -> dict[str, T]:
    if set(table) != set(PARTS):
        raise ValueError(f"must have the keys {', '.join(PARTS)}; got {', '.join(table)}")
    return table


Count = Annotated[int, Field(ge=0)]
Rows = Annotated[tuple[Count, ...], Field(strict=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ByPart = Annotated[dict[str, Count], AfterValidator(_every_part)]
ByTwoParts = Annotated[dict[str, ByPart], AfterValidator(_every_part)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(_Strict):
    """What was examined."""

    name: Literal["fer2013", "toyfaces"]
    digest: Digest
    counts: ByPart


class Counts(_Strict):
    """Rows of a part with a twin in a part: ``exact["PrivateTest"]["Training"]`` is the first leak."""

    exact: ByTwoParts
    twins: ByTwoParts  # exact or near
    pairs: Count  # near twins, pair by pair; those of identical pixels are among them unless constant
    mirrored_pairs: Count
    conflicting_rows: ByPart  # an exact twin, in any part, has another label
    conflicting_groups: Count
    constant: ByPart
    ferplus_agrees: ByPart | None
    ferplus_agrees_by_class: dict[str, Count] | None  # on PrivateTest


class PartRows(_Strict):
    """Row numbers within one part, ascending."""

    exact_twin_in_training: Rows
    twin_in_training: Rows  # exact or near
    other_label_in_training: Rows  # an exact twin there has another label
    constant: Rows
    ferplus_agrees: Rows | None


class Audit(_Strict):
    """The whole file."""

    version: Literal[1]
    data: Data
    correlation: Annotated[float, Field(gt=0, le=1)]
    ferplus_sha256: Digest | None
    counts: Counts
    private_test: PartRows
    public_test: PartRows | None = None  # files that were written before it was kept have none

    @model_validator(mode="after")
    def _lists_fit_the_counts(self) -> "Audit":
        for key, part, rows in (
            ("private_test", TEST, self.private_test),
            ("public_test", VALIDATION, self.public_test),
        ):
            if rows and (problem := _contradiction(rows, part, self.data.counts[part], self.counts)):
                raise ValueError(problem.format(key))
        return self

    @property
    def test_rows(self) -> int:
        """Number of rows of PrivateTest."""
        return self.data.counts[TEST]

    def rows_of(self, part: str) -> PartRows | None:
        """Row lists of a part; None where the file has none."""
        return {TEST: self.private_test, VALIDATION: self.public_test}.get(part)

    def twins_of(self, part: str) -> np.ndarray | None:
        """Mask over a part of the rows with an exact or near twin in Training; None without lists."""
        rows = self.rows_of(part)
        return _mask(rows.twin_in_training, self.data.counts[part]) if rows else None

    def agreeing_of(self, part: str) -> np.ndarray | None:
        """Mask over a part of the rows whose label is the majority of FER+; None without lists or votes."""
        rows = self.rows_of(part)
        return (
            None if rows is None or rows.ferplus_agrees is None else _mask(rows.ferplus_agrees, self.data.counts[part])
        )

    @property
    def without_twins(self) -> np.ndarray:
        """Mask over PrivateTest of the rows with no twin in Training."""
        return ~_mask(self.private_test.twin_in_training, self.test_rows)

    @property
    def ferplus_agrees(self) -> np.ndarray | None:
        """Mask over PrivateTest of the rows whose label is the majority of FER+; None without votes."""
        return self.agreeing_of(TEST)


def _contradiction(rows: PartRows, part: str, count: int, counts: Counts) -> str | None:
    """Say why the lists of a part, named {}, cannot be those of ``count`` rows with these counts, or None."""
    for name, found in rows:
        if found is not None and (list(found) != sorted(set(found)) or max(found, default=0) >= count):
            return f"{{}}.{name}: must ascend and stay below {count}"
    if not set(rows.other_label_in_training) <= set(rows.exact_twin_in_training) <= set(rows.twin_in_training):
        return "{}: rows of another label must be exact twins, and exact twins twins"
    listed = [rows.exact_twin_in_training, rows.twin_in_training, rows.constant, rows.ferplus_agrees]
    agrees = counts.ferplus_agrees[part] if counts.ferplus_agrees else None
    counted = [counts.exact[part][FIT], counts.twins[part][FIT], counts.constant[part], agrees]
    if [None if found is None else len(found) for found in listed] != counted:
        return "counts: are not those of the lists in {}"
    return None


def _mask(rows: tuple[int, ...], count: int) -> np.ndarray:
    mask = np.zeros(count, dtype=bool)
    mask[list(rows)] = True
    return mask


def refuse_partial(path: Path, faces: Faces) -> None:
    """Raise a UserError where ``path`` is on the board ``benchmark`` and ``faces`` is not whole FER2013."""
    found = tuple(np.bincount(faces.parts, minlength=len(PARTS)).tolist())
    if path.absolute().parent.name == "benchmark" and (faces.name != "fer2013" or found != OFFICIAL_COUNTS):
        raise UserError(
            f"{path}: takes whole FER2013 only, {OFFICIAL_COUNTS} rows a part; got {found}; write elsewhere"
        )


def save(path: Path, findings: Findings) -> None:
    """Write the file: one line of JSON, the same for the same data, votes and threshold."""
    refuse_partial(path, findings.faces)
    write_atomic(path, canonical_json(Audit.model_validate(_content(findings)).model_dump(mode="json")) + b"\n")


def _content(f: Findings) -> dict[str, Any]:
    return {
        "version": 1,
        "data": {"name": f.faces.name, "digest": f.faces.digest, "counts": _by_part(f, np.ones(len(f.groups), bool))},
        "correlation": f.threshold,
        "ferplus_sha256": f.votes_sha256,
        "counts": _counts(f),
        "private_test": _lists(f, TEST),
        "public_test": _lists(f, VALIDATION),
    }


def _lists(f: Findings, part: str) -> dict[str, list[int] | None]:
    return {
        "exact_twin_in_training": _rows_within(f, part, f.exact_twin_in(FIT)),
        "twin_in_training": _rows_within(f, part, f.twin_in(FIT)),
        "other_label_in_training": _rows_within(f, part, f.conflict_in(FIT)),
        "constant": _rows_within(f, part, f.constant),
        "ferplus_agrees": None if f.agrees is None else _rows_within(f, part, f.agrees),
    }


def _counts(f: Findings) -> dict[str, Any]:
    agrees, labels = f.agrees, f.faces.labels
    by_class = [] if agrees is None else np.bincount(labels[agrees & f.within(TEST)], minlength=len(EMOTIONS)).tolist()
    return {
        "exact": {part: {other: _both(f, part, f.exact_twin_in(other)) for other in PARTS} for part in PARTS},
        "twins": {part: {other: _both(f, part, f.twin_in(other)) for other in PARTS} for part in PARTS},
        "pairs": len(f.pairs.first),
        "mirrored_pairs": int(f.pairs.mirrored.sum()),
        "conflicting_rows": _by_part(f, f.conflict),
        "conflicting_groups": len(np.unique(f.groups[f.conflict])),
        "constant": _by_part(f, f.constant),
        "ferplus_agrees": None if agrees is None else _by_part(f, agrees),
        "ferplus_agrees_by_class": None if agrees is None else dict(zip(EMOTIONS, by_class, strict=True)),
    }


def _both(f: Findings, part: str, mask: np.ndarray) -> int:
    return int((f.within(part) & mask).sum())


def _by_part(f: Findings, mask: np.ndarray) -> dict[str, int]:
    return {part: _both(f, part, mask) for part in PARTS}


def _rows_within(f: Findings, part: str, mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask[f.within(part)]).tolist()


def load(board: Path) -> Audit | None:
    """Read a board's audit; None where it has none.

    Raises:
        UserError: one line with the file, the key path and what is wrong.
    """
    path = board / FILE
    if not path.exists():
        return None
    try:
        return Audit.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); write it with `fer-bench data audit`") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(
            f"{path}: {where + ': ' if where else ''}{message}; write it with `fer-bench data audit`"
        ) from None
