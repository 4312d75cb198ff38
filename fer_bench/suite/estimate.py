"""A guess of each run's time and memory: from runs of the same network here, else from a few steps of it."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fer_bench import predict, records
from fer_bench.config import Member
from fer_bench.data.faces import SIDE
from fer_bench.errors import UserError
from fer_bench.models import CLASSES, NOT_LOCAL
from fer_bench.suite.members import Setting, environment
from fer_bench.suite.memory import occupied
from fer_bench.suite.plan import Run, share_left
from fer_bench.suite.probe import Measured, measure
from fer_bench.train import is_full
from fer_bench.views import passes

FORWARD_SHARE = 0.35
"""A forward pass as a share of a training step, for the validation and the scoring."""
START_SECONDS = 2.0
"""Building a network, reading and writing its weights."""
SCRATCH = 40 * 2**20
"""What the first steps on a CPU bring into memory whatever the network, such as the code of their operators."""


def rows(setting: Setting, plan: Sequence[Run], say: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """One row a run; each distinct network is measured once, finished runs and those that cannot work are not.

    ``cannot_run`` says why a run would fail here. ``say`` hears which network is measured, which can take minutes.
    """

    def told(member: Member, device: torch.device) -> Measured:
        say(f"timing a few steps of {member.backbone}, {member.image_size} px")
        return measure(member, device)

    forecast, held = Forecast(setting, measure=told), occupied(setting.device)
    return [_row(run, forecast, held) for run in plan]


def _row(run: Run, forecast: "Forecast", held: int) -> dict[str, Any]:
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
    device, counts = forecast.setting.device, forecast.setting.facts["counts"]
    own = peak_bytes(run.member, measured, counts, device, only_scored=forecast.is_trained(run))
    return row | {
        "parameters": measured.parameters,
        "seconds": round(forecast.seconds(run), 3),
        "bytes": held + own,
    }


def peak_bytes(
    member: Member, measured: Measured, counts: Mapping[str, int], device: torch.device, *, only_scored: bool
) -> int:
    """The most that a run holds at once, apart from what the process held before it.

    A backward pass takes what the probe saw, and no less than what all activations keep and the gradients on the two
    sides of the largest. What one of training and scoring frees, the other can have.
    """
    images = sum(counts.values())
    scoring = measured.scored_bytes * min(predict.BATCH, max(counts.values()))
    if only_scored:
        return 4 * measured.parameters + SIDE**2 * images + scoring + (SCRATCH if device.type == "cpu" else 0)
    data = SIDE**2 * images + 4 * CLASSES * counts["Training"]
    train = member.train
    whole = train.batch_size * train.repeats
    batch = min(whole, measured.micro_batch or whole)
    copies = 2 + (2 if train.optimizer != "sgd" else 1) + (1 if train.ema or train.swa else 0) + (2 if train.sam else 0)
    fixed = 4 * measured.parameters * copies + data + (SCRATCH if device.type == "cpu" else 0)
    training = max(measured.image_bytes + 2 * measured.largest_bytes, measured.pass_bytes)
    return fixed + max(training * batch, scoring)


def _network(member: Member) -> str:
    """What runs that take equally long a step have in common."""
    train = member.train
    options = sorted(member.options.items())
    how = member.sampling, train.precision, train.batch_size, train.optimizer, bool(train.ema), _passes(member)
    return f"{member.backbone} {member.image_size} {options} {how}"


@dataclass
class Forecast:
    """Seconds that runs take here. Each network is measured when it is asked for, unless a run of it is known.

    Where ``jobs`` runs share the device and none has shown yet how fast it goes then, each is taken to need as many
    times longer on a CPU, and half of that on a GPU, most of which one small network leaves idle. What is measured
    beside other runs is slowed down by them as well, and would count them twice.
    """

    setting: Setting
    jobs: int = 1
    measure: Callable[[Member, torch.device], Measured] | None = None
    beside: int = 0
    """Runs whose steps other processes make for this call just now."""
    finished: set[str] = field(default_factory=set)
    """Ids of the runs that the board has."""
    trained: set[str] = field(default_factory=set)
    """Ids of the trainings whose weights are here."""
    _measured: dict[str, Measured] = field(default_factory=dict)
    _slowed: dict[str, float] = field(default_factory=dict)
    """Network -> how many times longer its measured steps took for the runs beside them."""
    _unit: dict[str, float] = field(default_factory=dict)
    """Network -> seconds a unit of work, by runs of this call or of the board."""
    _ratios: dict[str, float] = field(default_factory=dict)
    """Network -> how many times longer it took than it was measured to."""
    _refused: dict[str, str] = field(default_factory=dict)
    """Network -> why it cannot be trained here."""

    def __post_init__(self) -> None:
        """Learn from the runs that this machine has done for the board."""
        here = environment(self.setting.device) | {"jobs": self.jobs}
        here["threads"] = max(1, int(here["threads"] or 1) // self.jobs)
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
                self._slowed[key] = self._crowd(self.beside, of=self.jobs)
                self._measured[key] = (self.measure or measure)(member, self.setting.device)
            except UserError as error:
                self._refused[key] = str(error)
            except RuntimeError as error:
                if not is_full(error):
                    raise
                self._refused[key] = "out of memory: the device has no room for two images"
        if key in self._refused:
            raise UserError(self._refused[key])
        return self._measured[key]

    def _whole(self, run: Run) -> float:
        if unit := self._unit.get(_network(run.member)):
            return unit * self._work(run)
        crowd = self._crowd(self.jobs - 1, of=1)
        return self._promised(run) * (statistics.median(self._ratios.values()) if self._ratios else crowd)

    def _crowd(self, others: int, of: int) -> float:
        """How many times longer work takes beside others: on a CPU, with as many threads as ``of`` of them have."""
        return 1 + others / (of if self.setting.device.type == "cpu" else 2)

    def _promised(self, run: Run) -> float:
        found, train = self.measured(run.member), run.member.train
        steps = max(1, (self.setting.facts["counts"]["Training"] - _held(run)) // train.batch_size) * train.epochs
        seconds = found.image_seconds * self._work(run) + found.step_seconds * (0 if self.is_trained(run) else steps)
        return seconds / self._slowed[_network(run.member)]

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
    renewed = FORWARD_SHARE * train.swa_epochs / train.epochs  # the statistics of the averaged weights
    return pixels * train.repeats * (1 + 1 / train.sam.every if train.sam else 1) + renewed


def _held(run: Run) -> int:
    """Rows of Training that a run scores and does not fit on."""
    return len(run.fold.held) if run.fold else 0
