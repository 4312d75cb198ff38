"""What a record may hold, and which board it may enter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from fer_bench.data.faces import EMOTIONS, OFFICIAL_COUNTS, PARTS
from fer_bench.files import sha256_bytes
from fer_bench.records.identity import run_id, stem

SCHEMA = 1
WHOLE = dict(zip(PARTS, OFFICIAL_COUNTS, strict=True))
CLASSES = len(EMOTIONS)
SUM_TOLERANCE = 1e-3  # float16 moves the sum of a row by 5e-4 at most

Record = dict[str, Any]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class _Data(_Strict):
    name: Literal["fer2013", "toyfaces"]
    digest: str
    split_digest: str
    canonical: bool
    source: str
    skipped: int
    counts: dict[str, int]


class _Model(_Strict):
    backbone: str
    parameters: int
    image_size: int
    pretrained: bool
    weights_origin: str | None
    weights_sha256: str | None


class _Predictions(_Strict):
    file: str
    sha256: str


class _Epoch(_Strict):
    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    images_per_second: float
    seconds: float


class _Look(_Strict):
    part: str
    purpose: str
    run_id: str
    time: str


class _Timing(_Strict):
    train_seconds: float | None = None
    predict_seconds: float | None = None
    peak_memory_bytes: int | None = None


class _Reason(_Strict):
    reason: Literal["out of memory", "diverged", "time", "configuration", "infrastructure"]
    message: str


class _Declared(_Strict):
    """What the sender of a submitted row says of its model; None is "not stated"."""

    parameters: int | None
    image_size: int | None
    pretraining: str | None


class _Source(_Strict):
    name: str
    seed: int | None
    run_id: str


class _Base(_Strict):
    name: str
    seed: int | None
    run_id: str
    identity: dict[str, Any]
    protocol: str
    suite: str
    data: _Data
    environment: dict[str, str | int | float | bool | None]
    timing: _Timing
    looks: list[_Look]
    limited: int | bool | None = None  # rows a part, for a run with --limit


class _Scored(_Base):
    views: list[str]
    headline: str
    predictions: _Predictions
    figures: dict[
        Literal["PublicTest", "PrivateTest"], dict[str, dict[str, Any]]
    ]  # part -> view set -> what metrics.figures returned


class _Member(_Scored):
    kind: Literal["member"]
    seed: int
    passes: dict[str, int]
    model: _Model
    history: list[_Epoch]


class _Ensemble(_Scored):
    kind: Literal["ensemble"]
    seed: None
    passes: dict[str, int]
    members: list[_Source]
    method: str
    weights: list[float] | None  # None for a stack, in which no member has one weight
    chosen: list[str] | None = None  # the stems of the members that a greedy selection picked
    selection: Literal["declared in the suite", "fitted on PublicTest, cross-fitted there"] | None = None


class _External(_Scored):
    kind: Literal["external"]
    seed: None
    passes: dict[str, int | None]  # as declared
    model: _Declared
    source: str  # an address or words: who made the probabilities, with what
    note: str | None
    labels_from: str  # the data's form, or the record whose labels scored it


class _Failure(_Base):
    kind: Literal["failure"]
    failure: _Reason
    model: _Model | None = None
    history: list[_Epoch] | None = None


_KINDS: dict[Any, type[_Base]] = {
    "member": _Member,
    "ensemble": _Ensemble,
    "external": _External,
    "failure": _Failure,
}


def as_stored(probabilities: np.ndarray) -> np.ndarray:
    """Return probabilities (N, 7) as float16, bit for bit what a record keeps; figures are computed from this."""
    return np.asarray(probabilities).astype(np.float16)


def probabilities_sha256(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 in hex over the probabilities as stored, in the order of their keys: what a submitted row is known by."""
    keys = sorted(key for key in arrays if not key.endswith("/labels"))
    return sha256_bytes(b"".join(key.encode() + as_stored(arrays[key]).astype("<f2").tobytes() for key in keys))


def broken(record: Any) -> str | None:
    """Say which keys of a record break the schema, or None."""
    version = record.get("schema") if isinstance(record, dict) else None
    if version != SCHEMA:
        return f"record schema {version!r}, and this fer-bench reads {SCHEMA}; use the fer-bench that wrote it"
    if record.get("kind") not in _KINDS:
        return f"kind: {record.get('kind')!r} is none of {', '.join(_KINDS)}"
    try:
        _KINDS[record["kind"]].model_validate({key: value for key, value in record.items() if key != "schema"})
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
    return None


def inconsistent(record: Record) -> str | None:
    """Say which fields of a record that keeps the schema contradict each other, or None."""
    expected = run_id(record["identity"])
    if record["run_id"] != expected:
        return f"run_id: {record['run_id']} is not the hash of the identity, {expected}"
    if record["kind"] == "failure":
        return None
    file = f"predictions/{stem(record['name'], record['seed'])}.npz"
    if record["predictions"]["file"] != file:
        return f"predictions.file: {record['predictions']['file']!r} must be {file!r}"
    if record["headline"] not in record["views"] or set(record["passes"]) != set(record["views"]):
        return f"headline {record['headline']!r} and passes {[*record['passes']]} are not of {record['views']}"
    if record["kind"] == "member":
        return _other_run(record)
    return _other_source(record) if record["kind"] == "external" else None


def _other_run(record: Record) -> str | None:
    """Say what a trained run's record states otherwise than its identity hashes, or None."""
    identity, model, data = record["identity"], record["model"], record["data"]
    settings = identity.get("member", {})
    stated = {"protocol": record["protocol"], "seed": record["seed"], "weights_sha256": model["weights_sha256"]}
    stated |= {"data_digest": data["digest"], "split_digest": data["split_digest"]}
    of_member = {"views": record["views"], **{key: model[key] for key in ("backbone", "image_size", "pretrained")}}
    for found, hashed in ((stated, identity), (of_member, settings)):
        for key in sorted(found.keys() & hashed.keys()):
            if found[key] != hashed[key]:
                return f"{key}: {found[key]!r}, but the identity has {hashed[key]!r}"
    if "views" in settings and record["headline"] != settings["views"][-1]:
        return f"headline: {record['headline']!r}, but the last of the declared views is {settings['views'][-1]!r}"
    epochs = settings.get("train", {}).get("epochs")
    if epochs is not None and len(record["history"]) != epochs:
        return f"history: {len(record['history'])} epochs, but the identity has {epochs}"
    if "fold" in identity and not any(look["run_id"] == record["run_id"] for look in record["looks"]):
        return "looks: none of this run, and a scored run has looked at PrivateTest"
    return None


def _other_source(record: Record) -> str | None:
    """Say where a submitted record states another source or data than its identity hashes, or None."""
    data = record["data"]
    stated = {"source": record["source"], "data_digest": data["digest"], "split_digest": data["split_digest"]}
    for key, value in stated.items():
        if record["identity"].get(key) != value:
            return f"identity.{key}: {record['identity'].get(key)!r} is not what the record states, {value!r}"
    return None


def misplaced(board: Path, record: Record) -> str | None:
    """Say why a record may not be on this board, or None: ``benchmark`` takes runs on the whole FER2013 only."""
    data = record["data"]
    whole = data["name"] == "fer2013" and data["counts"] == WHOLE and not record.get("limited")
    if whole or board.resolve().name != "benchmark":
        return None
    return f"data: {data['name']} {data['counts']} may not enter benchmark/, only whole FER2013 may; use another folder"


def array_problems(record: Record, arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield what is wrong with a record's arrays: keys, rows, shapes, types, values."""
    expected = {f"{part}/{leaf}" for part in record["figures"] for leaf in [*record["views"], "labels"]}
    if set(arrays) != expected or not arrays:
        yield f"arrays {sorted(arrays)} must be {sorted(expected)}"
        return
    for part in record["figures"]:
        rows, counted = arrays[f"{part}/labels"].size, record["data"]["counts"].get(part)
        if rows != counted and not record.get("limited"):
            yield f"{part}: {rows} labels, and data.counts says {counted}"
        for view in record["views"]:
            if problem := _wrong_values(arrays[f"{part}/labels"], arrays[f"{part}/{view}"]):
                yield f"{part}/{view}: {problem}"
    hashed = record["identity"].get("probabilities_sha256")
    if record["kind"] == "external" and hashed != (found := probabilities_sha256(arrays)):
        yield f"identity.probabilities_sha256: {hashed} is not that of the stored arrays, {found}"


def _wrong_values(labels: np.ndarray, probabilities: np.ndarray) -> str | None:
    """Say why these cannot be labels (N,) and probabilities (N, 7), or None."""
    if labels.dtype != np.uint8 or probabilities.dtype != np.float16:
        return f"labels must be uint8 and probabilities float16; got {labels.dtype}, {probabilities.dtype}"
    if labels.ndim != 1 or not len(labels) or probabilities.shape != (len(labels), CLASSES):
        return f"labels must be (N,) and probabilities (N, {CLASSES}); got {labels.shape}, {probabilities.shape}"
    if labels.max() >= CLASSES:
        return f"label {labels.max()} is not in 0-{CLASSES - 1}"
    sums = probabilities.astype(np.float64).sum(axis=1)
    if not (probabilities >= 0).all() or not (np.abs(sums - 1) <= SUM_TOLERANCE).all():
        return "probabilities must be 0-1 with rows that sum to 1"
    return None
