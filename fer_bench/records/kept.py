"""Where weights and checkpoints are in ``runs/``: called by the training alone, whatever view sets are scored."""

from pathlib import Path
from typing import Any

from fer_bench.records.identity import run_id, training_id


def checkpoint_path(runs_dir: Path, identity: dict[str, Any]) -> Path:
    """Where an unfinished run waits."""
    return _path(runs_dir / "checkpoints", identity, ".pt")


def weights_path(runs_dir: Path, identity: dict[str, Any]) -> Path:
    """Where a finished run's weights are, or would be."""
    return _path(runs_dir / "weights", identity, ".safetensors")


def _path(folder: Path, identity: dict[str, Any], suffix: str) -> Path:
    """The file of a training; the one of a run id, as it was called once, where only that is there."""
    path, older = (folder / f"{digest(identity)}{suffix}" for digest in (training_id, run_id))
    return older if older.is_file() and not path.is_file() else path


def rename_older(runs_dir: Path, identity: dict[str, Any]) -> None:
    """Give weights that are called by their run id the name that every run of the training finds them by."""
    path = weights_path(runs_dir, identity)
    path.replace(path.with_stem(training_id(identity)))
