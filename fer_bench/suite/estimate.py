"""A guess of each run's time and memory: from runs of the same network here, else from a few steps of it."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fer_bench import records
from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.models import NOT_LOCAL, Network, build, place
from fer_bench.suite.members import Setting, environment
from fer_bench.suite.plan import Run, share_left
from fer_bench.train import autocast, choose_engine, make_optimizer, refuse_precision, using_threads
from fer_bench.views import passes

PROBE_IMAGES = {"cpu": 8, "cuda": 128}
FORWARD_SHARE = 0.35
"""A forward pass as a share of a training step, for the validation and the scoring."""
START_SECONDS = 2.0
"""Building a network, reading and writing its weights."""


@dataclass(frozen=True)
class Measured:
    """What a few steps of a network on a device told."""

    parameters: int
    image_seconds: float
    """Forward and backward pass of one image."""
    step_seconds: float
    """What a step costs besides, whatever its batch: the optimizer and the averaged weights."""
    image_bytes: int
    """Activations that one image keeps for the backward pass."""


def rows(setting: Setting, plan: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a run; each distinct network is measured once, finished runs and those that cannot work are not.

    ``cannot_run`` says why a run would fail here.
    """
    forecast = Forecast(setting)
    return [_row(run, forecast) for run in plan]


def _row(run: Run, forecast: "Forecast") -> dict[str, Any]:
    row = {"name": run.member.name, "seed": run.seed, "backbone": run.member.backbone, "state": run.state}
    row |= {"fold": run.fold.index} if run.fold else {}
    row |= {"kind": "fold" if run.fold else "member", "image_size": run.member.image_size}
    row |= {"unavailable": run.unavailable, "cannot_run": None}
    if run.state == "done":
        return row
    if run.unavailable and NOT_LOCAL not in run.unavailable:
        return row | {"cannot_run": run.unavailable}
    try:
        measured = forecast.measured(run.member)
    except UserError as error:
        return row | {"cannot_run": str(error)}
    return row | {
        "parameters": measured.parameters,
        "seconds": round(forecast.seconds(run), 3),
        "bytes": _bytes(run.member, measured, only_scored=forecast.is_trained(run)),
    }


def _bytes(member: Member, measured: Measured, *, only_scored: bool) -> int:
    """Weights, gradients, optimizer and average beside a batch's activations; for scoring the weights alone."""
    train = member.train
    copies = 1 if only_scored else 2 + (2 if train.optimizer != "sgd" else 1) + (1 if train.ema else 0)
    return 4 * measured.parameters * copies + int(1.3 * measured.image_bytes * train.batch_size * train.repeats)


def _network(member: Member) -> str:
    """What runs that take equally long a step have in common."""
    train = member.train
    options = sorted(member.options.items())
    how = train.precision, train.batch_size, train.optimizer, bool(train.ema), _passes(member)
    return f"{member.backbone} {member.image_size} {options} {how}"


@dataclass
class Forecast:
    """Seconds that runs take here. Each network is measured when it is asked for, unless a run of it is known.

    Where ``jobs`` runs share the device and none has shown yet how fast it goes then, each is taken to need as many
    times longer on a CPU, and half of that on a GPU, most of which one small network leaves idle.
    """

    setting: Setting
    jobs: int = 1
    measure: Callable[[Member, torch.device], Measured] | None = None
    finished: set[str] = field(default_factory=set)
    """Ids of the runs that the board has."""
    trained: set[str] = field(default_factory=set)
    """Ids of the trainings whose weights are here."""
    _measured: dict[str, Measured] = field(default_factory=dict)
    _unit: dict[str, float] = field(default_factory=dict)
    """Network -> seconds a unit of work, by runs of this call or of the board."""
    _ratios: dict[str, float] = field(default_factory=dict)
    """Network -> how many times longer it took than it was measured to."""
    _refused: dict[str, str] = field(default_factory=dict)
    """Network -> why it cannot be trained here."""

    def __post_init__(self) -> None:
        """Learn from the runs that this machine has done for the board."""
        here = environment(self.setting.device) | {"jobs": self.jobs}
        alike = ["hardware", "device", "jobs", *(["threads"] if here["device"] == "cpu" else [])]
        for record in records.load_all(self.setting.board):
            if record["kind"] not in records.TRAINED:
                continue
            self.finished.add(record["run_id"])
            if records.weights_path(self.setting.options.runs_dir, record["identity"]).is_file():
                self.trained.add(records.training_id(record["identity"]))
            there = {"jobs": 1, **record["environment"]}
            is_whole = there.get("scored_hardware") in (None, here["hardware"])
            if is_whole and all(there.get(key) == here[key] for key in alike):
                member = Member(name=record["name"], **record["identity"]["member"])
                of = (record["identity"].get("fold") or {}).get("of")
                held = record["data"]["counts"]["Training"] // of if of else 0
                spent = sum(record["timing"].get(key) or 0.0 for key in ("train_seconds", "predict_seconds"))
                self._unit[_network(member)] = spent / (self._fitting(member, held) + self._scoring(member, held))

    def known(self, run: Run) -> float | None:
        """Say how long a run will take where that needs no measuring; 0 where nothing is to be trained."""
        if run.state == "done" or run.unavailable or (run.state != "redo" and run.run_id in self.finished):
            return 0.0
        known = self._measured.keys() | self._unit.keys() | self._refused.keys()
        return self.seconds(run) if _network(run.member) in known else None

    def is_trained(self, run: Run) -> bool:
        """Whether a run is only to be scored."""
        return run.state == "score" or (run.state != "redo" and run.training_id in self.trained)

    def note_finished(self, run: Run) -> None:
        """Note that the board has a run: under another name it takes no time, with other views no training."""
        self.finished.add(run.run_id)
        self.trained.add(run.training_id)

    def seconds(self, run: Run) -> float:
        """Say how long the training and scoring of a run will take from where it is; 0 where it fails at once."""
        images = self.setting.facts["counts"]["Training"] - _held(run)
        try:
            whole = self._whole(run)
        except UserError:
            return 0.0
        return START_SECONDS + whole * share_left(self.setting.options, run, images)

    def learn(self, run: Run, seconds: float, share: float) -> None:
        """Note that ``share`` of a run's work takes so long."""
        if seconds > 0 and share > 0:
            key, whole = _network(run.member), seconds / share
            self._unit[key] = whole / self._work(run)
            if key in self._measured:
                self._ratios[key] = whole / self._promised(run)

    def measured(self, member: Member) -> Measured:
        """Measure a network, once.

        Raises:
            UserError: for one that cannot be trained here.
        """
        key = _network(member)
        if key not in self._measured and key not in self._refused:
            try:
                self._measured[key] = (self.measure or measure)(member, self.setting.device)
            except UserError as error:
                self._refused[key] = str(error)
            except torch.OutOfMemoryError:
                self._refused[key] = "out of memory: the device has no room for two images"
        if key in self._refused:
            raise UserError(self._refused[key])
        return self._measured[key]

    def _whole(self, run: Run) -> float:
        if unit := self._unit.get(_network(run.member)):
            return unit * self._work(run)
        crowd = self.jobs if self.setting.device.type == "cpu" else (1 + self.jobs) / 2
        return self._promised(run) * (statistics.median(self._ratios.values()) if self._ratios else crowd)

    def _promised(self, run: Run) -> float:
        found, train = self.measured(run.member), run.member.train
        steps = max(1, (self.setting.facts["counts"]["Training"] - _held(run)) // train.batch_size) * train.epochs
        return found.image_seconds * self._work(run) + found.step_seconds * (0 if self.is_trained(run) else steps)

    def _work(self, run: Run) -> float:
        """Images that a run trains on, where it does, and those that it scores by what they cost."""
        fitting = 0.0 if self.is_trained(run) else self._fitting(run.member, _held(run))
        return fitting + self._scoring(run.member, _held(run))

    def _fitting(self, member: Member, held: int) -> float:
        """Images of all epochs and of their validation; ``held`` are out of a fold."""
        counts = self.setting.facts["counts"]
        fitted = (counts["Training"] - held) * _passes(member)
        return (fitted + FORWARD_SHARE * counts["PublicTest"]) * member.train.epochs

    def _scoring(self, member: Member, held: int) -> float:
        """Images of every view of all the sets that are stored; sets share their views."""
        counts = self.setting.facts["counts"]
        images = counts["PublicTest"] + counts["PrivateTest"] + held
        return FORWARD_SHARE * images * passes(*member.views)


def _passes(member: Member) -> float:
    """What an image of Training costs in an epoch, in passes forward and back at the full side, over all epochs."""
    train = member.train
    pixels = statistics.fmean((member.side_at(epoch) / member.image_size) ** 2 for epoch in range(train.epochs))
    return pixels * train.repeats * (1 + 1 / train.sam.every if train.sam else 1)


def _held(run: Run) -> int:
    """Rows of Training that a run scores and does not fit on."""
    return len(run.fold.held) if run.fold else 0


def measure(member: Member, device: torch.device) -> Measured:
    """Run a few steps of a network from scratch, of as many images as fit."""
    refuse_precision(member, device)
    network = build(member, None)
    engine = choose_engine(network, member, device)
    place(network.module, device).train()
    images = min(PROBE_IMAGES.get(device.type, 8), max(2, member.train.batch_size))
    while True:
        try:
            with using_threads(engine.threads):
                return _measured(network, member, device, engine.precision, images)
        except torch.OutOfMemoryError:
            if images <= 2:
                raise
        images //= 2
        torch.cuda.empty_cache()


def _measured(network: Network, member: Member, device: torch.device, precision: str, images: int) -> Measured:
    x = torch.zeros(images, network.channels, network.side, network.side, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    half, whole = (_kept(network.module, part, precision) for part in (x[: images // 2], x))
    image_seconds = min(_seconds(device, lambda: _pass(network.module, x, precision)) for _ in range(2)) / images
    optimizer = make_optimizer(network, member.train)
    optimizer.step()  # makes its state
    update = _update(network.module, optimizer, member)
    step_seconds = min(_seconds(device, update) for _ in range(2))
    kept = max(0, whole - half) // (images - images // 2)
    return Measured(network.parameters, image_seconds, step_seconds, kept)


def _update(module: nn.Module, optimizer: torch.optim.Optimizer, member: Member) -> Callable[[], None]:
    from timm.utils import ModelEmaV3

    ema = ModelEmaV3(module, decay=member.train.ema) if member.train.ema else None

    def update() -> None:
        optimizer.step()
        if ema is not None:
            ema.update(module)

    return update


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _pass(module: nn.Module, x: torch.Tensor, precision: str) -> None:
    with autocast(x.device, precision):
        loss = module(x).float().square().mean()
    loss.backward()


def _kept(module: nn.Module, x: torch.Tensor, precision: str) -> int:
    """Bytes that autograd keeps between the forward and the backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _pass(module, x, precision)
    return sum(kept.values())
