"""``fer-bench tune``: from a backbone to a study, and from its end to a suite, its figures and their data."""

import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from fer_bench import tune
from fer_bench.config import PROTOCOL, Member
from fer_bench.errors import UserError
from fer_bench.files import write_atomic
from fer_bench.models import build, check, find_weights
from fer_bench.suite.environment import processor
from fer_bench.suite.members import pick_device
from fer_bench.suite.plan import SEMANTICS, Options
from fer_bench.suite.progress import Display, duration
from fer_bench.suite.trials import HOLDOUT, SEED, Ground, Rows, make_objective, rows_of
from fer_bench.tune.budget import counted, state, tally
from fer_bench.tune.display import showing
from fer_bench.tune.families import DROP_RATES
from fer_bench.tune.figures import draw_all
from fer_bench.tune.result import rows as rows_of_trials
from fer_bench.tune.suitefile import HOME, SEEDS, Facts, body_of, slug, suite_text

STORAGE = Path("tune") / "tune.db"
TRIALS = 30


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    backbone: str
    options: Options
    data: str = "fer2013"
    space: Path | None = None
    image_size: int | None = None
    folds: int | None = None
    trials: int | None = None
    timeout: str | None = None
    storage: str | None = None
    workers: int = 1
    pruner: str | None = None
    suite_out: Path | None = None


@dataclass(frozen=True)
class Ending:
    """What a call of the command left."""

    verdict: str
    result: tune.Result
    space: tune.Space
    suite: Path | None
    folder: Path
    failures: tuple[Any, ...]
    """The trials that failed, or lost their worker, since the command began."""


def space_of(request: Request) -> tune.Space:
    """The space that is asked for; every side and every drop rate of it is tried on the network with one image.

    Sides beside the default's that the network cannot take are left out where nobody asked for them.

    Raises:
        UserError: an unknown backbone, or a space that does not fit it.
    """
    changes = tune.SpaceFile() if request.space is None else tune.load_file(request.space)
    if request.image_size is not None:
        changes = changes.model_copy(update={"space": changes.space | {"image_size": request.image_size}})
    blank = tune.default_space(request.backbone, frozenset()).member
    build(blank, None)
    supported = frozenset(rate for rate in DROP_RATES if _takes(blank, rate))
    first = changes.member | ({"image_size": request.image_size} if request.image_size else {})
    try:
        space = tune.lay_over(tune.default_space(request.backbone, supported, first), changes)
    except UserError as error:
        raise UserError(f"{request.space}: {error}" if request.space else str(error)) from None
    for member in _corners(space):
        try:
            check(member)
        except UserError:
            if "image_size" in changes.space or member.image_size == space.member.image_size:
                raise
            space = _without(space, member.image_size)
    return space


def _without(space: tune.Space, side: int) -> tune.Space:
    sides = space.dimensions["image_size"][0]
    left = tuple(choice for choice in sides.choices or () if choice != side)
    others = {key: found for key, found in space.dimensions.items() if key != "image_size"}
    found = {"image_size": (sides.model_copy(update={"choices": left}),)} if len(left) > 1 else {}
    return replace(space, dimensions=others | found)


def _takes(member: Member, rate: str) -> bool:
    try:
        build(member.model_copy(update={"options": {rate: 0.1}}), None)
    except UserError:
        return False
    return True


def _corners(space: tune.Space) -> Iterator[Member]:
    """Every side of the space, or the default's, with all options at their most."""
    most: dict[str, Any] = {}
    for key, found in space.dimensions.items():
        if key.startswith("options."):
            most[key] = found[0].choices[-1] if found[0].choices else found[0].high
    ends = space.dimensions.get("image_size", ())
    sides = {value for d in ends for value in d.choices or (d.low, d.high) if value is not None}
    for side in sorted(sides or {space.member.image_size}):
        yield tune.member_with(space.member, most | {"image_size": int(side)})


def prepare(request: Request) -> tuple[tune.Plan, Ground, Rows]:
    """The study that is asked for, checked as far as that needs no training."""
    place = tune.parse_storage(request.storage or str(request.options.runs_dir / STORAGE))
    seconds = None if request.timeout is None else tune.parse_seconds(request.timeout)
    trials = TRIALS if request.trials is None and seconds is None else request.trials
    if request.pruner not in (None, *tune.PRUNERS):
        raise UserError(f"--pruner: unknown {request.pruner!r}; use auto, {', '.join(tune.PRUNERS)}")
    pick_device(request.options.device)
    if request.suite_out is not None:
        _refuse_unwritable(request.suite_out)
    space = space_of(request)
    rows = rows_of(request.data, request.options, request.folds)
    weights = find_weights(space.member)
    question = {
        "kind": "tuning",
        "protocol": PROTOCOL,
        "semantics": SEMANTICS,
        "data": request.data,
        "training_digest": rows.digest,
        "scored": {"folds": request.folds} if request.folds else {"holdout": HOLDOUT},
        "seed": SEED,
        "weights_sha256": weights.sha256 if weights else None,
    }
    plan = tune.Plan(
        title=slug(request.backbone),
        question=question,
        space=space,
        steps=space.member.train.epochs * (request.folds or 1),
        place=place,
        runs_dir=request.options.runs_dir,
        budget=tune.Budget(trials, seconds),
        pruner=request.pruner,
    )
    return plan, Ground(space.member, request.data, request.options, request.folds, rows.digest), rows


def _refuse_unwritable(path: Path) -> None:
    """Find out before a night of trials that the suite could not be written."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(f"--suite-out {path}: cannot be written; name a file, in a folder where you may write")


def run(request: Request, display: Display, should_stop: Callable[[], bool]) -> Ending:
    """Work on a study until its budget is spent or someone stops it, then write down what it found.

    Raises:
        UserError: before anything is trained, for a mistake in the command, the space, the storage or the data.
    """
    since = time.time()
    plan, ground, rows = prepare(request)
    with tune.opened(plan) as this:
        _introduce(this, rows, request, display)
        with showing(plan, display.console) as show:
            verdict = tune.supervise(this, _makes(ground, request.workers), since, should_stop, show)
        result, trials = tune.conclude(this), this.trials()
        failures = tuple(trial for trial in trials if _failed_since(trial, since))
        suite = None if result.best is None else _write(plan, result, trials, rows, request)
        return Ending(verdict, result, plan.space, suite, plan.folder, failures)


def _makes(ground: Ground, workers: int) -> list[Callable[[], tune.Objective]]:
    """One maker of an objective for each worker; several share the GPUs in turn."""
    device = pick_device(ground.options.device)
    count = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
    named = [f"cuda:{i % count}" if count > 1 else ground.options.device for i in range(workers)]
    return [
        functools.partial(make_objective, replace(ground, options=replace(ground.options, device=d))) for d in named
    ]


def _introduce(this: Any, rows: Rows, request: Request, display: Display) -> None:
    plan, trials = this.plan, this.trials()
    counts, began = tally(trials), any("started" in trial.user_attrs for trial in trials)
    there = f"trials ended: {counts.ended}, running: {counts.running}" if began else "new"
    display.say(f"study {plan.name} in {plan.place.shown}: {there}")
    if not began and (other := tune.nearest_other(this)):
        display.say(f"another space or other data is another study: {other}")
    display.say(f"{scored(rows, request)}; PublicTest and PrivateTest take no part")
    budget = [counted(plan.budget.trials)] if plan.budget.trials is not None else []
    budget += [f"{duration(plan.budget.seconds)} of work"] if plan.budget.seconds is not None else []
    many = counted(plan.budget.trials) if plan.budget.trials is not None else "an unknown number of trials"
    pruner = this.study.user_attrs["pruner"]
    why = "as asked" if plan.pruner else "as the study began" if began else f"chosen for {many}"
    display.say(f"{' or '.join(budget)} in all; pruning: {pruner}, {why}; TPE after the default and known settings")


def scored(rows: Rows, request: Request) -> str:
    """What trials are fitted and scored on, as a phrase."""
    held, whole = int(sum(mask.sum() for mask in rows.held_out)), len(rows.labels)
    images = f"the {'first ' if request.options.limit is not None else ''}{whole:,} images of Training"
    if request.folds:
        return f"{request.folds} folds of {images}, each scored by a fit on the others"
    return f"a stratified holdout of {held:,} of {images}, fitted on the other {whole - held:,}"


def _failed_since(trial: Any, since: float) -> bool:
    return state(trial) in ("failed", "lost") and trial.user_attrs.get("started", 0.0) >= since


def space_text(request: Request) -> str:
    """The space that a request asks for as a space file, to be changed."""
    space = space_of(request)
    by_command = {"name", "backbone", "weights", "folds", "fold_views", "tuned"}
    member = space.member.model_dump(mode="json", exclude=by_command, exclude_none=True)
    one = {key: found[0] if len(found) == 1 else found for key, found in space.plain()["space"].items()}
    raw = {"inherit": False, "member": member, "space": one, "known": [dict(given) for given in space.known]}
    return yaml.safe_dump(raw, sort_keys=False, default_flow_style=None, width=110)


# ---- what is left


def _write(plan: tune.Plan, result: tune.Result, trials: Sequence[Any], rows: Rows, request: Request) -> Path:
    """Write the figures and their data, and the suite with a copy of that data beside it; returns the suite's path."""
    table = rows_of_trials(trials)
    data = _data(plan, result, table)
    for name, svg in draw_all(table, plan.space.dimensions, result.importances).items():
        write_atomic(plan.folder / name, svg)
    write_atomic(plan.folder / "trials.json", data)
    path = _suite_path(plan, request)
    hardware, time_needed = _hardware(result), _time(result, rows, request)
    facts = Facts(path, slug(path.stem) or plan.title, request.data, scored(rows, request), hardware, time_needed)
    text = suite_text(result, plan.space, facts)
    if not path.is_file() or body_of(path.read_text(encoding="utf-8", errors="replace")) != body_of(text):
        write_atomic(path, text.encode())
    write_atomic(path.with_name(f"{path.stem}.trials.json"), data)
    return path


def _suite_path(plan: tune.Plan, request: Request) -> Path:
    """Where the suite goes; another study's file is left alone unless it was named."""
    if request.suite_out is not None:
        return request.suite_out
    if request.data == "toyfaces":
        return plan.folder / f"{plan.title}.yaml"
    path = HOME / f"{plan.title}.yaml"
    if path.is_file() and plan.digest not in path.read_text(encoding="utf-8", errors="replace"):
        return path.with_name(f"{plan.title}-{plan.digest[:6]}.yaml")
    return path


def _data(plan: tune.Plan, result: tune.Result, table: list[dict[str, Any]]) -> bytes:
    """The study as JSON, a trial a line."""
    head = {
        "study": result.name,
        "digest": result.digest,
        "identity": plan.identity,
        "pruner": result.pruner,
        "seconds": round(result.seconds, 1),
        "importances": {name: round(value, 4) for name, value in result.importances.items()},
    }
    lines = [json.dumps(row, ensure_ascii=False) for row in table]
    text = json.dumps(head, ensure_ascii=False)[:-1] + ', "trials": [\n' + ",\n".join(lines) + "\n]}\n"
    return text.encode()


def _hardware(result: tune.Result) -> str:
    assert result.best is not None
    return f"the study ran on {result.best.user_attrs.get('notes', {}).get('hardware', processor())}"


def _time(result: tune.Result, rows: Rows, request: Request) -> str:
    """The runs of the suite, at the speed of the trials."""
    assert result.best is not None
    notes = result.best.user_attrs.get("notes", {})
    fitted = len(rows.labels) * (request.folds or 1) - sum(int(mask.sum()) for mask in rows.held_out)
    whole = 28_709 if request.data == "fer2013" else len(rows.labels)
    runs = len(SEEDS) * (1 if result.default_won else 2)
    seconds = notes.get("seconds", math.nan) / fitted * whole * runs
    if not math.isfinite(seconds):
        return "unknown"
    return f"about {duration(seconds)} for {runs} runs on whole Training, at the speed of the best trial"
