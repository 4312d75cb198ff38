"""One submitted file -> its record on the board."""

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fer_bench
from fer_bench import metrics, records
from fer_bench.config import PROTOCOL
from fer_bench.errors import UserError
from fer_bench.records import SUBMITTED
from fer_bench.records.identity import stem
from fer_bench.submit.labels import Labels, find_labels
from fer_bench.submit.probabilities import PARTS, order_warnings, read

FAR_APART = 0.08  # accuracies of two samples of 3,589 differ by 0.03 once in a hundred times
SUITE = "submitted"  # stands where other records name their suite

Record = dict[str, Any]


@dataclass(frozen=True)
class Declared:
    """What the sender says of a model; None is "not stated"."""

    parameters: int | None = None
    side: int | None = None  # pixels that the network takes
    passes: int | None = None  # forward passes an image
    pretraining: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Submitted:
    """A record on the board, and what a person should hear about it."""

    record: Record
    warnings: tuple[str, ...]
    is_new: bool


def submit(
    file: Path,
    name: str,
    source: str,
    *,
    board: Path,
    data_dir: Path | None = None,
    declared: Declared = Declared(),
    force: bool = False,
) -> Submitted:
    """Check, score and save the probabilities in ``file``; the same submission again changes nothing.

    Raises:
        UserError: the file holds no probabilities of both parts, the name is taken, or there are no labels.
    """
    stem(name, None)
    probabilities = read(file)
    labels = find_labels(board, data_dir)
    arrays = {f"{part}/{SUBMITTED}": records.as_stored(probabilities[part]) for part in PARTS}
    record = _unscored(name, _one_line(source, "--source"), declared, labels, records.probabilities_sha256(arrays))
    same = _same(board, record, force)
    warnings = order_warnings(probabilities["PublicTest"], labels.public())
    if same:
        return Submitted(same, warnings, is_new=False)
    twins = _twins(board, record)
    scored = _scored(board, record, arrays, labels)
    return Submitted(scored, (*warnings, *twins, *_far_apart(scored)), is_new=True)


def _twins(board: Path, record: Record) -> tuple[str, ...]:
    """Say which other rows hold the very same probabilities: in a vote they would count twice."""
    key = "probabilities_sha256"
    same = [r["name"] for r in records.load_all(board) if r["identity"].get(key) == record["identity"][key]]
    names = [name for name in same if name != record["name"]]
    return (f"{', '.join(names)} has the same probabilities: one of them is enough",) if names else ()


def _far_apart(record: Record) -> tuple[str, ...]:
    """Say where the parts differ by far more than two samples of one size do."""
    public, private = (record["figures"][part][SUBMITTED]["accuracy"] for part in PARTS)
    if abs(public - private) < FAR_APART:
        return ()
    return (
        f"{100 * public:.2f} % on PublicTest and {100 * private:.2f} % on PrivateTest: are the rows of each part in "
        "the order of fer2013.csv?",
    )


def _unscored(name: str, source: str, declared: Declared, labels: Labels, sha256: str) -> Record:
    identity = {
        "kind": "external",
        "protocol": PROTOCOL,
        "probabilities_sha256": sha256,
        "source": source,
        "data_digest": labels.facts["digest"],
        "split_digest": labels.facts["split_digest"],
    }
    _check_declared(declared)
    return {
        "schema": records.SCHEMA,
        "kind": "external",
        "name": name,
        "seed": None,
        "run_id": records.run_id(identity),
        "identity": identity,
        "protocol": PROTOCOL,
        "suite": SUITE,
        "data": labels.facts,
        "source": source,
        "model": {
            "parameters": declared.parameters,
            "image_size": declared.side,
            "pretraining": declared.pretraining and _one_line(declared.pretraining, "--pretraining"),
        },
        "note": declared.note and _one_line(declared.note, "--note"),
        "labels_from": labels.origin,
        "views": [SUBMITTED],
        "headline": SUBMITTED,
        "passes": {SUBMITTED: declared.passes},
        "environment": {
            "fer_bench": fer_bench.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "timing": {},
    }


def _one_line(text: str, option: str) -> str:
    line = " ".join(text.split())
    if not line:
        raise UserError(f"{option}: must not be empty")
    return line


def _check_declared(declared: Declared) -> None:
    for key, value in asdict(declared).items():
        if isinstance(value, int) and value < 1:
            raise UserError(f"--{key}: must be at least 1; got {value}")


def _same(board: Path, record: Record, force: bool) -> Record | None:
    """Return the record of the same submission; a UserError where another row has the name, None where it is free."""
    taken = [found for found in records.load_all(board) if found["name"] == record["name"]]
    if not taken:
        return None
    if strangers := [found for found in taken if found["kind"] != "external"]:
        raise UserError(f"--name {record['name']}: a row of kind {strangers[0]['kind']} has that name; choose another")
    if force:
        return None
    stated = ("identity", "model", "note", "passes")
    changes = records.differing_keys(*({key: row[key] for key in stated} for row in (taken[0], record)))
    if changes:
        raise UserError(
            f"--name {record['name']}: submitted before with other facts ({'; '.join(changes)}); "
            "choose another name, or use --force to replace that row"
        )
    return taken[0]


def _scored(board: Path, record: Record, arrays: dict[str, np.ndarray], labels: Labels) -> Record:
    private, looks = labels.private(record["run_id"])
    truth = dict(zip(PARTS, (labels.public(), private), strict=True))
    figures = {part: {SUBMITTED: metrics.figures(truth[part], arrays[f"{part}/{SUBMITTED}"])} for part in PARTS}
    stored = arrays | {f"{part}/labels": truth[part].astype(np.uint8) for part in PARTS}
    return records.load(records.save(board, record | {"figures": figures, "looks": looks}, stored))
