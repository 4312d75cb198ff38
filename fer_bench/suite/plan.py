"""Suite + options -> the runs it asks for, each with its identity, and what is finished already."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_bench import data, records, splits, toyfaces
from fer_bench.config import Member, Suite, identity_of
from fer_bench.data import Faces
from fer_bench.errors import UserError
from fer_bench.models import Weights, find_weights
from fer_bench.suite import teacher
from fer_bench.suite.budget import Budget
from fer_bench.suite.folds import Fold, members_and_folds
from fer_bench.train import derive, load_checkpoint

SEMANTICS = 1
"""Raise when the same configuration would train to other weights than before; it is part of every identity."""


@dataclass(frozen=True)
class Options:
    """What the command line adds to a suite."""

    data_dir: Path | None = None
    output_dir: Path | None = None
    runs_dir: Path = Path("runs")
    seeds: tuple[int, ...] = ()
    device: str = "auto"
    limit: int | None = None
    force: bool = False
    skip_bad_rows: bool = False
    jobs: int = 1
    budget: Budget | None = None
    compiles: bool = False
    members: tuple[str, ...] = ()
    """Names of the only members to train; all where there is none."""


@dataclass(frozen=True)
class Run:
    """A member x a seed (x a fold).

    ``state`` is new, resume, done, score, retry or redo; ``score`` is a run that is finished and asks for other view
    sets. ``unavailable`` says why a training cannot start.
    """

    member: Member
    seed: int
    weights: Weights | None
    identity: dict[str, Any]
    state: str
    unavailable: str | None = None
    fold: Fold | None = None

    @property
    def run_id(self) -> str:
        """The hash of the identity."""
        return records.run_id(self.identity)

    @property
    def training_id(self) -> str:
        """The hash of what decides its weights, which runs with other view sets share."""
        return records.training_id(self.identity)

    @property
    def title(self) -> str:
        """Name, seed and fold as people read them."""
        fold = f" fold {self.fold.index} of {self.fold.of}" if self.fold else ""
        return f"{self.member.name} seed {self.seed}{fold}"

    @property
    def key(self) -> tuple[str, int, int | None]:
        """Name, seed and fold, as records are found by."""
        return self.member.name, self.seed, self.fold.index if self.fold else None

    @property
    def draws(self) -> int:
        """The seed of all that training draws: the run's own, or for a fold one of its own, so that folds differ."""
        return derive(self.seed, "fold", self.fold.index) if self.fold else self.seed


def load_faces(suite: Suite, options: Options) -> Faces:
    """The suite's data, labelled, cut to ``limit`` rows a part when asked."""
    if suite.data == "toyfaces":
        faces = toyfaces.load()
    else:
        faces = data.load(options.data_dir, skip_bad_rows=options.skip_bad_rows)
    data.require_labels(faces)
    counts = np.bincount(faces.parts, minlength=3)
    if not counts.all():
        missing = data.PARTS[int(np.argmin(counts))]
        raise UserError(f"{faces.source}: has no {missing} rows; a run needs all three parts")
    return faces if options.limit is None else _first_rows(faces, options.limit)


def _first_rows(faces: Faces, limit: int) -> Faces:
    keep = np.sort(np.concatenate([np.flatnonzero(faces.parts == code)[:limit] for code in range(3)]))
    images, labels, parts = faces.images[keep], faces.labels[keep], faces.parts[keep]
    return replace(
        faces, images=images, labels=labels, parts=parts, canonical=False, digest=data.digest(images, labels, parts)
    )


def board_of(suite: Suite, options: Options, facts: dict[str, Any]) -> Path:
    """Where records go: ``benchmark`` for whole FER2013, else a folder of the suite's own below ``runs``.

    Raises:
        UserError: when toy faces or a part of the data are sent to ``benchmark``, before anything is trained.
    """
    whole = facts["name"] == "fer2013" and options.limit is None and facts["counts"] == records.WHOLE
    limited = "" if options.limit is None else f"-limit{options.limit}"
    private = options.runs_dir / f"{suite.suite}{limited}"
    if options.output_dir is None:
        return Path("benchmark") if whole else private
    if options.output_dir.name == "benchmark" and not whole:
        what = "toy faces" if facts["name"] != "fer2013" else "a part of the data"
        raise UserError(f"--output-dir {options.output_dir}: a benchmark folder takes no runs on {what}; use {private}")
    return options.output_dir


def data_facts(faces: Faces) -> dict[str, Any]:
    """The part of a record that says which data it was made on."""
    counts = np.bincount(faces.parts, minlength=3)
    return {
        "name": faces.name,
        "digest": faces.digest,
        "split_digest": splits.digest(faces),
        "canonical": faces.canonical,
        "source": faces.source,
        "skipped": faces.skipped,
        "counts": {part: int(n) for part, n in zip(data.PARTS, counts, strict=True)},
    }


def identity(
    suite: Suite,
    member: Member,
    seed: int,
    weights_sha256: str | None,
    facts: dict[str, Any],
    fold: Fold | None = None,
    teacher_sha256: str | None = None,
) -> dict[str, Any]:
    """What a run is: everything that decides its probabilities, and nothing else."""
    taught = {"teacher_sha256": teacher_sha256} if member.train.distill else {}
    return taught | {
        "kind": "member",
        "protocol": suite.protocol,
        "semantics": SEMANTICS,
        "member": identity_of(member),
        "weights_sha256": weights_sha256,
        "seed": seed,
        "data_digest": facts["digest"],
        "split_digest": facts["split_digest"],
        "fold": fold.identity if fold else None,
    }


def share_left(options: Options, run: Run, images: int) -> float:
    """The share of a run's steps over ``images`` that its checkpoint leaves; 1 where there is none."""
    path = records.checkpoint_path(options.runs_dir, run.identity)
    if run.state != "resume" or not path.is_file():
        return 1.0
    epoch, step = _reached(path, path.stat().st_mtime_ns)
    steps = max(1, images // run.member.train.batch_size)
    return max(0.0, 1 - (epoch * steps + step) / (steps * run.member.train.epochs))


@functools.lru_cache
def _reached(checkpoint: Path, written: int) -> tuple[int, int]:
    """Epoch and step of a checkpoint as it was at the time ``written``."""
    held = load_checkpoint(checkpoint, torch.device("cpu"))
    return (held["epoch"], held["step"]) if held else (0, 0)


def make_plan(
    suite: Suite,
    options: Options,
    facts: dict[str, Any],
    board: Path,
    cuts: Mapping[int, Sequence[Fold]],
    *,
    fetch: bool = True,
    awaits: bool = False,
) -> list[Run]:
    """List all runs, the first seed of every member first, those on folds last.

    All weights are looked for before this returns, without ``fetch`` on this machine only. With ``awaits`` a teacher
    that is an ensemble of the suite need not be there yet; the run's identity then is not the one that it will have.

    Raises:
        UserError: for a name that a run with other settings has taken, and for one that asks for other view sets where
            its weights are not.
    """
    found = {member.name: _weights(member, fetch) for member in suite.members}
    wanted = members_and_folds(suite, cuts, options.seeds or suite.seeds)
    late = suite.taught if awaits else ()
    return [_run(suite, options, facts, board, m, s, *found[m.name], fold, m in late) for m, s, fold in wanted]


def _weights(member: Member, fetch: bool) -> tuple[Weights | None, str | None]:
    try:
        return find_weights(member, fetch=fetch), None
    except UserError as error:
        if member.weights:
            raise
        return None, str(error)


def _run(
    suite: Suite,
    options: Options,
    facts: dict[str, Any],
    board: Path,
    member: Member,
    seed: int,
    weights: Weights | None,
    unavailable: str | None,
    fold: Fold | None,
    awaits: bool,
) -> Run:
    existing = records.find(board, member.name, seed, fold.index if fold else None)
    sha256 = weights.sha256 if weights else None
    taught, untaught = teacher.sha256_of(board, member, facts)
    finished = existing if existing and existing["kind"] in records.TRAINED else None
    if finished and (unavailable or untaught):  # it was made where all could be had
        sha256 = sha256 or finished["identity"]["weights_sha256"]
        taught = taught or finished["identity"].get("teacher_sha256")
    this = identity(suite, member, seed, sha256, facts, fold, taught)
    unavailable = unavailable or (None if awaits else untaught)
    return _in_state(Run(member, seed, weights, this, "new", unavailable, fold), existing, options)


def renewed(run: Run, options: Options, board: Path) -> Run:
    """The run as it is now, which another process may have finished since it was planned."""
    return _in_state(run, records.find(board, *run.key), options)


def _in_state(run: Run, existing: dict[str, Any] | None, options: Options) -> Run:
    """The run with its state; what needs no training needs no initial weights."""
    state = _state(existing, run.identity, options)
    return replace(run, state=state, unavailable=None if state in ("done", "score") else run.unavailable)


def _state(existing: dict[str, Any] | None, this: dict[str, Any], options: Options) -> str:
    if existing and options.force:
        return "redo"
    if existing:
        problem = records.conflict(existing, this)
        if problem and records.same_training(existing, this):
            return _only_scored(problem, existing, this, options)
        if problem:
            raise UserError(problem)
        if existing["kind"] in records.TRAINED:
            return "done"
    if records.checkpoint_path(options.runs_dir, this).is_file():
        return "resume"
    return "retry" if existing else "new"


def _only_scored(problem: str, existing: dict[str, Any], this: dict[str, Any], options: Options) -> str:
    """A finished run that asks for other view sets: its record has them, or its weights are scored where they are."""
    weights = records.weights_path(options.runs_dir, existing["identity"])
    if not set(this["member"]["views"]) <= set(existing["views"]) and not weights.is_file():
        raise UserError(f"{problem}; other view sets need no training where its weights are: no file at {weights}")
    return "score"
