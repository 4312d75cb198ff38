"""What a record may hold, and which board it may enter."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fer_bench.data.faces import OFFICIAL_COUNTS, PARTS
from fer_bench.records.identity import run_id, stem_of
from fer_bench.views import FACTORS, passes

SCHEMA = 1
SUBMITTED = "submitted"
"""The one view set of a submitted row: its maker knows how many passes are behind it."""
WHOLE = dict(zip(PARTS, OFFICIAL_COUNTS, strict=True))
TRAINED = ("member", "fold")
"""Kinds of record that have a model: fitted on all of Training, or on all but one fold of it."""

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


class _Tuned(_Strict):
    study: str  # the first 16 hex digits of its digest
    trials: int


class _Source(_Strict):
    name: str
    seed: int | None
    fold: int | None = None
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
    tuned: _Tuned | None = None  # the study that chose a member's settings


class _Scored(_Base):
    views: list[str]
    headline: str
    predictions: _Predictions


_Views = dict[str, dict[str, Any]]  # view set -> what metrics.figures returned
_Figures = dict[Literal["PublicTest", "PrivateTest"], _Views]
_OutOfFold = dict[
    Literal["Training", "PublicTest", "PrivateTest"], _Views
]  # Training: rows that no model was fitted on


class _Trained(_Scored):
    seed: int
    passes: dict[str, int]
    model: _Model
    history: list[_Epoch]


class _Member(_Trained):
    kind: Literal["member"]
    figures: _Figures


class _Fold(_Trained):
    kind: Literal["fold"]
    fold: int  # from 0; how many there are, and of which rows, is in the identity
    figures: _OutOfFold


class _Ensemble(_Scored):
    kind: Literal["ensemble"]
    figures: _OutOfFold
    seed: None
    passes: dict[str, int]
    members: list[_Source]
    method: str
    weights: list[float] | None  # None for a stack, in which no member has one weight
    chosen: list[str] | None = None  # the stems of the members that a greedy selection picked
    selection: (
        Literal["declared in the suite", "fitted on PublicTest, cross-fitted there", "fitted out-of-fold on Training"]
        | None
    ) = None


class _External(_Scored):
    kind: Literal["external"]
    seed: None
    figures: _Figures
    passes: dict[str, int | None]  # as declared
    model: _Declared
    source: str  # an address or words: who made the probabilities, with what
    note: str | None
    labels_from: str  # the data's form, or the record whose labels scored it


class _Failure(_Base):
    kind: Literal["failure"]
    fold: int | None = None
    failure: _Reason
    model: _Model | None = None
    history: list[_Epoch] | None = None


_KINDS: dict[Any, type[_Base]] = {
    "member": _Member,
    "fold": _Fold,
    "ensemble": _Ensemble,
    "external": _External,
    "failure": _Failure,
}


def broken(record: Any) -> str | None:
    """Say which keys of a record break the schema, or None."""
    version = record.get("schema") if isinstance(record, dict) else None
    if version != SCHEMA:
        return f"record schema {version!r}, and this fer-bench reads {SCHEMA}; use the fer-bench that wrote it"
    if record.get("kind") not in list(_KINDS):  # a list: what JSON gives need not be hashable
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
    file = f"predictions/{stem_of(record)}.npz"
    if record["predictions"]["file"] != file:
        return f"predictions.file: {record['predictions']['file']!r} must be {file!r}"
    if record["headline"] not in record["views"] or set(record["passes"]) != set(record["views"]):
        return f"headline {record['headline']!r} and passes {[*record['passes']]} are not of {record['views']}"
    if record["kind"] in TRAINED:
        return _other_fold(record) or _other_run(record)
    return _other_source(record) if record["kind"] == "external" else None


def _other_fold(record: Record) -> str | None:
    """Say why a trained run's record is not of the fold (or of all of Training) that its identity hashes, or None."""
    hashed = record["identity"].get("fold")
    index = hashed.get("index") if isinstance(hashed, dict) else None
    return None if record.get("fold") == index else f"fold: {record.get('fold')}, but the identity has {index}"


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
    for view, stated in record["passes"].items():
        if view not in FACTORS:
            return f"views: {view!r} is no view set that this fer-bench knows"
        if stated != passes(view):
            return f"passes.{view}: {stated}, but the view set takes {passes(view)}"
    epochs = settings.get("train", {}).get("epochs")
    if epochs is not None and len(record["history"]) != epochs:
        return f"history: {len(record['history'])} epochs, but the identity has {epochs}"
    if "fold" in identity and not record["looks"]:
        return "looks: none, and a scored run has looked at PrivateTest"
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
