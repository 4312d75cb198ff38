"""One run from its plan to its record: build, fit, score, save."""

import functools
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fer_bench import metrics, records, splits
from fer_bench.config import Member
from fer_bench.data import Faces
from fer_bench.errors import UserError
from fer_bench.files import write_atomic
from fer_bench.models import Network, build, place
from fer_bench.predict import probabilities
from fer_bench.suite import kept, looks, teacher
from fer_bench.suite.environment import processor, software
from fer_bench.suite.folds import fitting_rows
from fer_bench.suite.memory import peak_memory, reset_peak
from fer_bench.suite.plan import Options, Run
from fer_bench.suite.scoring import Scored, chosen, lacking, score
from fer_bench.train import (
    DivergedError,
    Engine,
    Fitted,
    Job,
    Progress,
    StoppedError,
    bound_threads,
    choose_engine,
    derive,
    fit,
    is_full,
)
from fer_bench.views import passes

SAME = ("data", "model", "history", "timing")
"""What a record says of training, however it is scored."""


@dataclass(frozen=True)
class Setting:
    """What all runs of one call share."""

    suite: str
    protocol: str
    board: Path
    faces: Faces
    facts: dict[str, Any]
    options: Options
    device: torch.device


def pick_device(wanted: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU, with no more threads than the process is granted."""
    bound_threads()
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", wanted):
        raise UserError(f"--device: unknown {wanted!r}; use auto, cpu, cuda or cuda:0")
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {wanted}: this machine has no usable CUDA device; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {wanted}: this machine has {torch.cuda.device_count()} CUDA devices, counted from 0")
    return device


def run_member(
    setting: Setting, run: Run, should_stop: Callable[[], bool], report: Callable[[Progress], None]
) -> dict[str, Any]:
    """Train and score one run and save its record, which is returned; a failure is a record too.

    Where the weights of the same training are here, with a record that has other view sets, the run is only scored.

    Raises:
        StoppedError: the run was asked to stop; its checkpoint is on disk.
    """
    try:
        trained = kept.trained(setting.board, setting.options.runs_dir, run)
        if trained is not None:
            return _score_again(setting, run, trained)
        if run.unavailable:
            return save_failure(setting, run, "infrastructure", run.unavailable)
        return _train_and_score(setting, run, should_stop, report)
    except DivergedError as error:
        reason, message = "diverged", str(error)
    except UserError as error:
        reason, message = "configuration", str(error)
    except StoppedError:
        raise
    except Exception as error:  # one run's trouble, whatever it is, must not take the rest of the suite with it
        if os.environ.get("FER_BENCH_DEBUG"):
            raise
        said = (
            str(error).splitlines()[0]
            if isinstance(error, torch.OutOfMemoryError)
            else f"{type(error).__name__}: {error}"
        )
        # the checkpoint stays for the next try: a neighbour may have filled the memory
        return save_failure(setting, run, "out of memory" if is_full(error) else "infrastructure", said)
    _drop_checkpoint(setting, run)
    return save_failure(setting, run, reason, message)


def _train_and_score(
    setting: Setting, run: Run, should_stop: Callable[[], bool], report: Callable[[Progress], None]
) -> dict[str, Any]:
    torch.manual_seed(derive(run.draws, "init"))
    network = build(run.member, run.weights)
    engine = replace(choose_engine(network, run.member, setting.device), compiles=setting.options.compiles)
    images, labels = fitting_rows(setting.faces, run.fold)
    taught = teacher.shares(setting.board, run.member, setting.facts, labels)
    job = Job(network, run.member, images, labels, run.draws, _validator(setting, network, engine), taught)
    reset_peak(setting.device)
    checkpoint = records.checkpoint_path(setting.options.runs_dir, run.identity)
    fitted = fit(job, engine, checkpoint=checkpoint, should_stop=should_stop, report=report)
    network = replace(network, module=fitted.module)
    _save_weights(network.module, records.weights_path(setting.options.runs_dir, run.identity))
    scored = _scored(setting, run, network, fitted.precision, "score of the finished run", {})
    facts = {
        "model": _model(run, network),
        "history": fitted.history,
        "environment": _environment(setting) | _chosen(engine, fitted),
        "timing": {"train_seconds": round(fitted.seconds, 1), "peak_memory_bytes": peak_memory(setting.device)},
    }
    record = _save_record(setting, run, scored, facts)
    _drop_checkpoint(setting, run)
    return record


def _chosen(engine: Engine, fitted: Fitted) -> dict[str, Any]:
    """What the machine decided for a run; ``threads`` are those that the process had, by which estimates find it."""
    found = {"precision": fitted.precision, "micro_batch": fitted.micro_batch, "train_threads": fitted.threads}
    return found | ({"compiled": True} if engine.compiles else {})


def _score_again(setting: Setting, run: Run, trained: dict[str, Any]) -> dict[str, Any]:
    """Score kept weights with the view sets of this run; what the record says of training is what ``trained`` says."""
    stored, facts = records.arrays(setting.board, trained), {key: trained[key] for key in SAME}
    if not lacking(run.member.views, stored):
        scored = Scored(chosen(run.member.views, stored), (), 0.0)
        return _save_record(setting, run, scored, facts | {"environment": trained["environment"]}, trained["looks"])
    network = kept.load_network(setting.options.runs_dir, trained)
    records.rename_older(setting.options.runs_dir, trained["identity"])
    place(network.module, setting.device)
    precision, now = trained["environment"]["precision"], environment(setting.device)
    scored = _scored(setting, run, network, precision, "score of other view sets, from the kept weights", stored)
    noted = {f"scored_{key}": now[key] for key in ("git_commit", "git_dirty", "torch", "hardware", "threads")}
    noted["scored_git_dirty"] = now["git_dirty"] or trained["environment"].get("scored_git_dirty", False)
    return _save_record(setting, run, scored, facts | {"environment": trained["environment"] | noted}, trained["looks"])


def _validator(setting: Setting, network: Network, engine: Engine) -> Callable[[nn.Module], tuple[float, float]]:
    images, labels = splits.part(setting.faces, "PublicTest")

    def validate(module: nn.Module) -> tuple[float, float]:
        scored = replace(network, module=module)
        p = probabilities(scored, images, device=engine.device, precision=engine.precision)
        if not np.isfinite(p).all():
            return math.nan, 0.0
        found = metrics.figures(labels, p)
        return found["nll"], found["accuracy"]

    return validate


def _scored(
    setting: Setting, run: Run, network: Network, precision: str, purpose: str, stored: dict[str, np.ndarray]
) -> Scored:
    engine = Engine(setting.device, precision)
    note = functools.partial(looks.note, setting.options.runs_dir, run.identity)
    return score(run, network, setting.faces, engine, purpose, note, stored)


def _save_record(
    setting: Setting, run: Run, scored: Scored, facts: dict[str, Any], seen: Sequence[looks.Look] = ()
) -> dict[str, Any]:
    """Save a scored run; ``facts`` is what the record says of its training, ``seen`` are looks with its weights."""
    views, arrays = run.member.views, scored.arrays
    parts = ("Training", "PublicTest", "PrivateTest") if run.fold else ("PublicTest", "PrivateTest")
    every = looks.joined(earlier_looks(setting, run), seen, scored.looks)
    record = _base(setting, run, "fold" if run.fold else "member", every) | facts
    record |= {
        "views": list(views),
        "headline": views[-1],
        "passes": {view: passes(view) for view in views},
        "figures": {
            part: {view: metrics.figures(arrays[f"{part}/labels"], arrays[f"{part}/{view}"]) for view in views}
            for part in parts
        },
        "timing": facts["timing"] | {"predict_seconds": _predicting(facts["timing"], scored)},
    }
    return records.load(records.save(setting.board, record, arrays))


def _predicting(timing: dict[str, Any], scored: Scored) -> float:
    """Seconds spent on all stored view sets, those that another call predicted too."""
    return round((timing.get("predict_seconds") or 0.0) + scored.seconds, 1)


def earlier_looks(setting: Setting, run: Run) -> list[looks.Look]:
    """The looks of the record that this one replaces, where it is the same training, and those that were noted."""
    existing, runs_dir = records.find(setting.board, *run.key), setting.options.runs_dir
    here = looks.noted(runs_dir, run.identity)
    if existing is None or not records.same_training(existing, run.identity):
        return here
    return looks.joined(existing["looks"], looks.noted(runs_dir, existing["identity"]), here)


def _base(setting: Setting, run: Run, kind: str, looks: list[dict[str, Any]]) -> dict[str, Any]:
    limited = {} if setting.options.limit is None else {"limited": setting.options.limit}
    fold = {"fold": run.fold.index} if run.fold else {}
    noted = limited | chosen_by(run.member)
    return noted | {
        "schema": records.SCHEMA,
        "kind": kind,
        "name": run.member.name,
        "seed": run.seed,
        **fold,
        "run_id": run.run_id,
        "identity": run.identity,
        "protocol": setting.protocol,
        "suite": setting.suite,
        "data": setting.facts,
        "looks": looks,
    }


def chosen_by(member: Member) -> dict[str, Any]:
    """The record's key for the study that chose a member's settings, where one did."""
    return {"tuned": member.tuned.model_dump()} if member.tuned else {}


def _model(run: Run, network: Network) -> dict[str, Any]:
    return {
        "backbone": run.member.backbone,
        "parameters": network.parameters,
        "image_size": network.side,
        "pretrained": run.member.pretrained,
        "weights_origin": run.weights.origin if run.weights else None,
        "weights_sha256": run.weights.sha256 if run.weights else None,
    }


def save_failure(setting: Setting, run: Run, reason: str, message: str) -> dict[str, Any]:
    """Record that a run failed and why; a finished record of the same name is left as it is."""
    record = _base(setting, run, "failure", []) | {
        "environment": _environment(setting),
        "timing": {},
        "failure": {"reason": reason, "message": " ".join(message.split())[:300]},
    }
    existing = records.find(setting.board, *run.key)
    if existing is None or existing["kind"] == "failure":
        records.save(setting.board, record, None)
    return record


def _drop_checkpoint(setting: Setting, run: Run) -> None:
    records.checkpoint_path(setting.options.runs_dir, run.identity).unlink(missing_ok=True)


def _save_weights(module: nn.Module, path: Path) -> None:
    from safetensors.torch import save as to_bytes

    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    write_atomic(path, to_bytes(state))


def _environment(setting: Setting) -> dict[str, str | int | bool | None]:
    """Where a run was made; runs beside it on the device make its times longer."""
    jobs = setting.options.jobs
    return environment(setting.device) | ({"jobs": jobs} if jobs > 1 else {})


@functools.cache
def environment(device: torch.device) -> dict[str, str | int | bool | None]:
    """Versions, commit and hardware: noted in a record, not part of its identity."""
    import timm

    return software() | {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
