"""Finished runs + new faces -> predictions: images of any size, or any form of FER2013, labelled or not."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_bench import data, records, splits
from fer_bench.config import suite_file
from fer_bench.ensemble import Recipe, fit_records
from fer_bench.errors import UserError
from fer_bench.models import place
from fer_bench.predict import probabilities
from fer_bench.suite import looks, sources
from fer_bench.suite.kept import load_network


def predict(
    source: Path,
    model: str,
    *,
    board: Path | None,
    runs_dir: Path,
    device: torch.device,
    view: str | None,
    parts: Sequence[str] = (),
) -> tuple[str, tuple[str, ...]]:
    """Predict with a record's run, or with all members of an ensemble; returns CSV text and notes for people.

    Columns: ``row`` (file name, or part and row), ``prediction`` and one probability a class. ``parts`` and what
    becomes of PrivateTest: see ``sources``. Without ``board`` it is the one that holds the model's JSON.

    Raises:
        UserError: when there is no such record, its weights are not on this machine, or nothing can be read.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    board = board or home_of(model)
    record = find_record(model, board)
    found = sources.read(source, parts, lambda faces: _open_test(faces, record, board, runs_dir))
    p = _probabilities(record, found.images, board, runs_dir, device, view)
    return _as_csv(found.rows, p), found.notes


def _open_test(faces: data.Faces, record: dict[str, Any], board: Path, runs_dir: Path) -> np.ndarray:
    """Open PrivateTest for a record, the look noted for each trained run that is to see it; images (N, 48, 48)."""

    def note(look: dict[str, str]) -> None:
        for run in _trained(record, board):
            looks.note(runs_dir, run["identity"], look | {"run_id": run["run_id"]})

    purpose = f"predict with {record['name']}"
    return splits.open_private_test(faces, purpose=purpose, run_id=record["run_id"], note=note)[0]


def _trained(record: dict[str, Any], board: Path) -> list[dict[str, Any]]:
    """Records of the trained runs that a record's predictions come from, each run once."""
    if record["kind"] != "ensemble":
        return [record]
    found = {run["run_id"]: run for member in _members(record, board) for run in _trained(member, board)}
    return list(found.values())


def home_of(model: str) -> Path:
    """The board of a record that is given as BOARD/results/NAME.json, else ``benchmark``."""
    folder = Path(model).absolute().parent
    return folder.parent if model.endswith(".json") and folder.name == "results" else Path("benchmark")


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
    network = load_network(runs_dir, record)
    place(network.module, device)
    precision = record["environment"]["precision"]
    return probabilities(network, images, view or record["headline"], device=device, precision=precision)


def _combined(
    record: dict[str, Any], images: np.ndarray, board: Path, runs_dir: Path, device: torch.device, view: str
) -> np.ndarray:
    """Combine the members' predictions for new images; what is fitted is fitted again on the board's PublicTest."""
    recipe = Recipe.of(record["identity"])
    if recipe.is_fitted and view not in record["views"]:
        raise UserError(f"--view {view}: {record['name']} was fitted for {', '.join(record['views'])}; use one of them")
    members = _members(record, board)
    stored = [records.arrays(board, member) for member in members]
    new = [_probabilities(member, images, board, runs_dir, device, view) for member in members]
    trainings = [records.training_id(member["identity"]) for member in members]
    fitted_for = view if recipe.is_fitted else record["headline"]
    return fit_records(recipe, trainings, stored, fitted_for, records.units(members))(np.stack(new))


def _members(record: dict[str, Any], board: Path) -> list[dict[str, Any]]:
    members = []
    for source in record["members"]:
        member = records.find(board, source["name"], source["seed"], source.get("fold"))
        if member is None:
            raise UserError(f"{board}: {record['name']} needs {records.stem_of(source)}, which is not there")
        if member["run_id"] != source["run_id"]:
            raise UserError(
                f"{board}: {record['name']} combines another run of {records.stem_of(source)} than the board has; "
                f"fer-bench ensemble {suite_file(record['suite'])} --board {board} builds it anew"
            )
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
