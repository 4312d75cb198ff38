"""Finished runs + new faces -> predictions: images of any size, or any form of FER2013, labelled or not."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_bench import data, records
from fer_bench.config import Member, suite_file
from fer_bench.ensemble import Recipe, fit_records
from fer_bench.errors import UserError
from fer_bench.models import build, place
from fer_bench.predict import probabilities
from fer_bench.suite.plan import weights_path

IMAGE_TYPES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def predict(source: Path, model: str, *, board: Path, runs_dir: Path, device: torch.device, view: str | None) -> str:
    """Predict with a record's run, or with all members of an ensemble; returns CSV text.

    Columns: ``row`` (file name, or part and row), ``prediction`` and one probability a class.

    Raises:
        UserError: when there is no such record, its weights are not on this machine, or nothing can be read.
    """
    rows, images = read_faces(source)
    return _as_csv(rows, _probabilities(find_record(model, board), images, board, runs_dir, device, view))


def find_record(model: str, board: Path) -> dict[str, Any]:
    """A record by the path of its JSON, or by its name on the board, with or without ``.s<seed>``."""
    path = Path(model)
    if path.suffix == ".json":
        if not path.is_file():
            raise UserError(f"{path}: no such record")
        return records.load(path)
    return records.called(board, model)


def _probabilities(
    record: dict[str, Any], images: np.ndarray, board: Path, runs_dir: Path, device: torch.device, view: str | None
) -> np.ndarray:
    if record["kind"] == "ensemble":
        return _combined(record, images, board, runs_dir, device, view or record["headline"])
    if record["kind"] == "external":
        raise UserError(f"{record['name']}: submitted as probabilities, without a model; see {record['source']}")
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
    members = []
    for source in record["members"]:
        member = records.find(board, source["name"], source["seed"], source.get("fold"))
        if member is None:
            raise UserError(f"{board}: {record['name']} needs {records.stem_of(source)}, which is not there")
        members.append(member)
    stored = [records.arrays(board, member) for member in members]
    new = [_probabilities(member, images, board, runs_dir, device, view) for member in members]
    run_ids = [member["run_id"] for member in members]
    recipe = Recipe.of(record["identity"])
    return fit_records(recipe, run_ids, stored, view, records.units(members))(np.stack(new))


def read_faces(source: Path) -> tuple[list[str], np.ndarray]:
    """Names and gray 48x48 faces of an image, a folder of images, or any form of FER2013; (N,), (N, 48, 48) uint8."""
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    if source.is_file() and source.suffix.lower() in IMAGE_TYPES:
        return [source.name], np.stack([_read_image(source)])
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_TYPES)
        if files:
            return [path.name for path in files], np.stack([_read_image(path) for path in files])
    faces = data.load(source)
    return [f"{data.PARTS[part]} {row}" for row, part in enumerate(faces.parts)], faces.images


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            gray = image.convert("L")
            return np.asarray(
                gray if gray.size == (data.SIDE,) * 2 else gray.resize((data.SIDE,) * 2, Image.Resampling.BICUBIC)
            )
    except OSError as error:
        raise UserError(f"{path}: not a readable image ({error})") from None


def _as_csv(rows: list[str], p: np.ndarray) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "prediction", *data.EMOTIONS])
    for row, values in zip(rows, p, strict=True):
        writer.writerow([row, data.EMOTIONS[int(values.argmax())], *(f"{value:.4f}" for value in values)])
    return text.getvalue()
