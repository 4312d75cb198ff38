"""The objective of a study: fit a setting on a part of Training, score it on the rest of Training.

PublicTest and PrivateTest take no part. Every trial trains with the same seed and is scored on the same rows with one
view, so two trials differ by their settings alone, and are compared image by image.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fer_bench import data, metrics, splits, toyfaces, tune
from fer_bench.allocation import keep_freed_memory
from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.files import write_atomic
from fer_bench.models import Weights, build, find_weights
from fer_bench.predict import probabilities
from fer_bench.suite.members import environment, pick_device
from fer_bench.suite.plan import Options
from fer_bench.train import (
    DivergedError,
    Fitted,
    Job,
    Progress,
    StoppedError,
    choose_engine,
    derive,
    fit,
    is_full,
)

SEED = 0
"""Of every trial's training and of the rows held out; a tuned suite has other seeds."""
HOLDOUT = 0.2


@dataclass(frozen=True)
class Ground:
    """What all trials of a study stand on; plain data that travels to the workers."""

    member: Member
    data: str
    options: Options
    folds: int | None
    digest: str
    """Of the rows of Training that take part."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Training's images (N, 48, 48) uint8 and labels (N,), and the masks (N,) of the rows held out, one a fold."""

    images: np.ndarray
    labels: np.ndarray
    held_out: tuple[np.ndarray, ...]

    @property
    def digest(self) -> str:
        """Sha256 in hex of images and labels."""
        return data.digest(self.images, self.labels, np.zeros(len(self.labels), np.uint8))


def rows_of(name: str, options: Options, folds: int | None) -> Rows:
    """Training, or its first ``limit`` rows, cut into what is fitted and what is scored; twins stay on one side."""
    faces = toyfaces.load() if name == "toyfaces" else data.load(options.data_dir, skip_bad_rows=options.skip_bad_rows)
    images, labels = (array[: options.limit] for array in splits.part(faces, "Training"))
    if folds is None:
        return Rows(images, labels, (splits.holdout(images, labels, HOLDOUT, SEED),))
    ids = splits.folds(images, labels, folds, SEED)
    return Rows(images, labels, tuple(ids == fold for fold in range(folds)))


def make_objective(ground: Ground) -> tune.Objective:
    """Read the data once for all trials of a worker.

    Raises:
        UserError: data that is not what the study was begun on.
    """
    keep_freed_memory()
    rows = rows_of(ground.data, ground.options, ground.folds)
    if rows.digest != ground.digest:
        raise UserError("the data changed while the study ran; put it back, or begin again with the same command")
    device, weights = pick_device(ground.options.device), find_weights(ground.member)

    def objective(attempt: tune.Attempt) -> tune.Outcome:
        try:
            with _named_failures():
                outcome = _run(Trial(ground, rows, device, weights, attempt))
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()  # the next trial has other shapes
        return outcome

    return objective


@dataclass(frozen=True)
class Trial:
    """One point on its ground."""

    ground: Ground
    rows: Rows
    device: torch.device
    weights: Weights | None
    attempt: tune.Attempt

    @property
    def member(self) -> Member:
        """The setting."""
        return tune.member_with(self.ground.member, self.attempt.values)

    def kept(self, fold: int, kind: str) -> Path:
        """Where a fold waits to be gone on with (pt), or its right answers (npy) for the other folds."""
        return self.attempt.folder / "checkpoints" / f"{self.attempt.key}-{fold}.{kind}"


@contextlib.contextmanager
def _named_failures() -> Iterator[None]:
    """Say in the study's words how a trial ended."""
    try:
        yield
    except StoppedError:
        raise tune.StoppedError from None
    except DivergedError as error:
        raise tune.HopelessError(str(error)) from None
    except UserError as error:
        raise tune.FailedError("configuration", str(error)) from None
    except Exception as error:
        if not is_full(error):
            raise
        raise tune.FailedError("out of memory", (str(error).splitlines() or [type(error).__name__])[0]) from None


def _run(trial: Trial) -> tune.Outcome:
    """Fit and score every fold; the value is the share of right answers over all of them."""
    right = np.zeros(len(trial.rows.labels), dtype=bool)
    notes: dict[str, Any] = {}
    try:
        for fold, mask in enumerate(trial.rows.held_out):
            known = _known(trial.kept(fold, "npy"), int(mask.sum()))
            if known is None:
                known, fitted = _fold(trial, fold, right)
                notes = notes | {
                    "micro_batch": fitted.micro_batch,
                    "precision": fitted.precision,
                    "threads": fitted.threads,
                }
                notes["seconds"] = round(notes.get("seconds", 0.0) + fitted.seconds, 1)
                write_atomic(trial.kept(fold, "npy"), _as_bytes(known))
            right[mask] = known
    except (StoppedError, tune.LostError):
        raise  # it can be gone on with
    except BaseException:
        _forget(trial)
        raise
    _forget(trial)
    scored = np.logical_or.reduce(trial.rows.held_out)
    notes |= {"hardware": environment(trial.device)["hardware"], "commit": environment(trial.device)["git_commit"]}
    return tune.Outcome(float(right[scored].mean()), right[scored], notes)


def _forget(trial: Trial) -> None:
    for fold in range(len(trial.rows.held_out)):
        for kind in ("pt", "npy"):
            trial.kept(fold, kind).unlink(missing_ok=True)


def _known(path: Path, rows: int) -> np.ndarray | None:
    """The right answers (rows,) of a fold that was finished before the trial was stopped."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        found = np.load(path, allow_pickle=False)
        return found if found.shape == (rows,) and found.dtype == bool else None
    return None


def _as_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _fold(trial: Trial, fold: int, right: np.ndarray) -> tuple[np.ndarray, Fitted]:
    """Fit on the other rows, score these; returns the mask (n,) of right answers. ``right`` has the earlier folds."""
    member, mask, device = trial.member, trial.rows.held_out[fold], trial.device
    torch.manual_seed(derive(SEED, "init"))
    network = build(member, trial.weights)
    asked = member.model_copy(update={"options": trial.ground.member.options})  # one probe a side and batch
    engine = choose_engine(network, asked, device)
    images, labels = trial.rows.images[mask], trial.rows.labels[mask]
    found: list[np.ndarray] = []

    def validate(module: nn.Module) -> tuple[float, float]:
        p = probabilities(replace(network, module=module), images, device=device, precision=engine.precision)
        found[:] = [p.argmax(axis=1) == labels]
        if not np.isfinite(p).all():
            return math.nan, 0.0
        return metrics.figures(labels, p)["nll"], float(found[0].mean())

    earlier = trial.rows.held_out[:fold]
    job = Job(network, member, trial.rows.images[~mask], trial.rows.labels[~mask], SEED, validate)
    fitted = fit(
        job,
        engine,
        checkpoint=trial.kept(fold, "pt"),
        should_stop=trial.attempt.should_stop,
        report=_reporter(trial, fold, right, earlier, len(labels)),
    )
    if not found:  # stopped between the last epoch and its score
        validate(fitted.module)
    return found[0], fitted


def _reporter(
    trial: Trial, fold: int, right: np.ndarray, earlier: Sequence[np.ndarray], rows: int
) -> Callable[[Progress], None]:
    """Tell the study the share right so far: the finished folds with their rows, and this one as it stands."""
    before = sum(int(right[mask].sum()) for mask in earlier)
    count = sum(int(mask.sum()) for mask in earlier)
    epochs = trial.member.train.epochs

    def report(where: Progress) -> None:
        if where.entry is not None:
            value = (before + where.entry["validation_accuracy"] * rows) / (count + rows)
            trial.attempt.report(fold * epochs + where.epoch, value)

    return report
