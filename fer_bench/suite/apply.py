"""Finished runs + new faces -> predictions: images of any size, or any form of FER2013, labelled or not."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_bench import data, records, splits
from fer_bench.config import Member, suite_file
from fer_bench.ensemble import Recipe, fit_records
from fer_bench.errors import UserError
from fer_bench.models import build, place
from fer_bench.predict import probabilities
from fer_bench.suite import looks, sources
from fer_bench.suite.plan import weights_path


def predict(
    source: Path,
    model: str,
    *,
    board: Path,
    runs_dir: Path,
    device: torch.device,
    view: str | None,
    parts: Sequence[str] = (),
) -> tuple[str, tuple[str, ...]]:
    """Predict with a record's run, or with all members of an ensemble; returns CSV text and notes for people.

    Columns: ``row`` (file name, or part and row), ``prediction`` and one probability a class. ``parts`` and what
    becomes of PrivateTest: see ``sources``.

    Raises:
        UserError: when there is no such record, its weights are not on this machine, or nothing can be read.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    record = find_record(model, board)
    found = sources.read(source, parts, lambda faces: _open_test(faces, record, board, runs_dir))
    p = _probabilities(record, found.images, board, runs_dir, device, view)
    return _as_csv(found.rows, p), found.notes


def _open_test(faces: data.Faces, record: dict[str, Any], board: Path, runs_dir: Path) -> np.ndarray:
    """Open PrivateTest for a record, the look noted for each trained run that is to see it; images (N, 48, 48)."""

    def note(look: dict[str, str]) -> None:
        for run_id in _trained(record, board):
            looks.note(runs_dir, look | {"run_id": run_id})

    purpose = f"predict with {record['name']}"
    return splits.open_private_test(faces, purpose=purpose, run_id=record["run_id"], note=note)[0]


def _trained(record: dict[str, Any], board: Path) -> list[str]:
    """Run ids of the trained runs that a record's predictions come from."""
    if record["kind"] != "ensemble":
        return [record["run_id"]]
    return list(dict.fromkeys(run_id for member in _members(record, board) for run_id in _trained(member, board)))


def find_record(model: str, board: Path) -> dict[str, Any]:
    """A record by the path of its JSON, or by its name on the board, with or without ``.s<seed>``."""
    path = Path(model)
    if path.suffix == ".json":
        if not path.is_file():
            raise UserError(f"{path}: no such record")
        record = records.load(path)
    else:
        record = records.called(board, model)
    _require_model(record)
    return record


def _require_model(record: dict[str, Any]) -> None:
    """Raise a UserError for a record that nothing can be predicted with."""
    if record["kind"] == "external":
        raise UserError(f"{record['name']}: submitted as probabilities, without a model; see {record['source']}")
    if record["kind"] == "failure":
        raise UserError(f"{record['name']}: failed ({record['failure']['reason']}), so it has no weights")


def _probabilities(
    record: dict[str, Any], images: np.ndarray, board: Path, runs_dir: Path, device: torch.device, view: str | None
) -> np.ndarray:
    if record["kind"] == "ensemble":
        return _combined(record, images, board, runs_dir, device, view or record["headline"])
    view = view or record["headline"]
    path = weights_path(runs_dir, record["run_id"])
    if not path.is_file():
        raise UserError(
            f"{path}: the weights of {record['name']} are not here; they stay on the machine that trained it "
            f"(fer-bench run {suite_file(record['suite'])} --force trains it again)"
        )
    from safetensors.torch import load_file

    network = build(Member(name=record["name"], **record["identity"]["member"]), None)
    network.module.load_state_dict(load_file(path))
    place(network.module, device)
    return probabilities(network, images, view, device=device, precision=record["environment"]["precision"])


def _combined(
    record: dict[str, Any], images: np.ndarray, board: Path, runs_dir: Path, device: torch.device, view: str
) -> np.ndarray:
    """Combine the members' predictions for new images; what is fitted is fitted again on the board's PublicTest."""
    members = _members(record, board)
    stored = [records.arrays(board, member) for member in members]
    new = [_probabilities(member, images, board, runs_dir, device, view) for member in members]
    run_ids = [member["run_id"] for member in members]
    recipe = Recipe.of(record["identity"])
    return fit_records(recipe, run_ids, stored, view, records.units(members))(np.stack(new))


def _members(record: dict[str, Any], board: Path) -> list[dict[str, Any]]:
    members = []
    for source in record["members"]:
        member = records.find(board, source["name"], source["seed"], source.get("fold"))
        if member is None:
            raise UserError(f"{board}: {record['name']} needs {records.stem_of(source)}, which is not there")
        _require_model(member)
        members.append(member)
    return members


def _as_csv(rows: Sequence[str], p: np.ndarray) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "prediction", *data.EMOTIONS])
    for row, values in zip(rows, p, strict=True):
        writer.writerow([row, data.EMOTIONS[int(values.argmax())], *(f"{value:.4f}" for value in values)])
    return text.getvalue()
