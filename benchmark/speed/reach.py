"""Seconds of training to a fixed validation accuracy: the default recipe, the notebook's CNN, a plain script."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fer_bench import data, splits, toyfaces
from fer_bench.allocation import keep_freed_memory
from fer_bench.config import Member, Train, load_suite
from fer_bench.models import Network, build, find_weights
from fer_bench.predict import probabilities
from fer_bench.train import Engine, Job, StoppedError, choose_engine, derive, fit
from measure import Figure, Setting, SkippedError, synchronize
from report import ROOT
from training import Usual, UsualLoop, faster

TARGET = 0.5
LIMIT = 1200.0
"""Seconds of training after which a run is given up."""
HELD_OUT = 0.1
CUT_SEED = 0
RATES = (1e-3, 1e-4)
"""Of the plain script: the optimizer's own default, and what fine-tuning scripts mostly take."""

Rows = tuple[np.ndarray, np.ndarray]


@dataclass
class Course:
    """A run's clock, which stands still while held-out rows are scored, and what it has come to."""

    network: Network
    engine: Engine
    held: Rows
    limit: float = LIMIT
    target: float = TARGET
    seconds: float = 0.0
    accuracies: list[float] = field(default_factory=list)
    _began: float = math.nan

    def start(self) -> None:
        """Let the clock run."""
        synchronize(self.engine.device)
        self._began = time.perf_counter()

    def score(self, module: nn.Module) -> tuple[float, float]:
        """Stop the clock and score the held-out rows, at the end of an epoch; (0, accuracy), as ``fit`` asks for."""
        synchronize(self.engine.device)
        self.seconds += time.perf_counter() - self._began
        network = replace(self.network, module=module)
        p = probabilities(network, self.held[0], device=self.engine.device, precision=self.engine.precision)
        self.accuracies.append(float((p.argmax(axis=1) == self.held[1]).mean()))
        self.start()
        return 0.0, self.accuracies[-1]

    def stop(self) -> None:
        """Count what a run that did not reach the target spent since its last whole epoch."""
        synchronize(self.engine.device)
        self.seconds += 0.0 if self.is_reached else time.perf_counter() - self._began

    @property
    def is_reached(self) -> bool:
        """Whether the last epoch came to the target."""
        return bool(self.accuracies) and self.accuracies[-1] >= self.target

    def is_over(self) -> bool:
        """Whether the target is reached or the time is up."""
        return self.is_reached or self.seconds + time.perf_counter() - self._began > self.limit

    @property
    def best(self) -> float:
        """The best accuracy of an epoch."""
        return max(self.accuracies, default=0.0)


def reach(setting: Setting) -> list[Figure]:
    """Measure how long training takes to the target; one seed on a CPU, on a GPU as many as there are repeats."""
    if setting.data is None and not setting.is_quick:
        raise SkippedError("it trains on FER2013: give --data-dir or set FER_BENCH_DATA_DIR")
    keep_freed_memory()
    rows, held = parts(setting)
    seeds = range(setting.repeats if setting.device.type == "cuda" else 1)
    found = []
    for name, (this, train) in contenders(setting).items():
        courses = {seed: train(this, rows, held, seed, setting) for seed in seeds}
        found.append(_figure(name, this, courses, len(held[1])))
    return found


def parts(setting: Setting) -> tuple[Rows, Rows]:
    """Rows of Training to fit and the tenth that is held out: stratified, twins on one side."""
    faces = toyfaces.load(counts=(140, 7, 7)) if setting.data is None else data.load(setting.data)
    images, labels = splits.part(faces, "Training")
    held = splits.holdout(images, labels, HELD_OUT, CUT_SEED)
    return (images[~held], labels[~held]), (images[held], labels[held])


def contenders(setting: Setting) -> dict[str, tuple[Member, Callable[..., Course]]]:
    """Who trains, by name: two members of the shipped suites, and the first one's network in a plain script."""
    base, cnn = shipped("ablation", "ablation-base"), shipped("cpu", "baseline-cnn")
    of = f"{base.backbone}, {base.image_size} px"
    found = {f"default recipe ({of})": (base, by_fit), "notebook CNN (baseline:cnn, 48 px)": (cnn, by_fit)}
    for rate in RATES:
        train = Train(batch_size=64, optimizer="adam", lr=rate, weight_decay=0, schedule="constant", precision="fp32")
        found[f"plain script, Adam {rate:g} ({of})"] = (base.model_copy(update={"train": train}), by_script)
    if not setting.is_quick:
        return found
    return {name: (_small(this), train) for name, (this, train) in found.items()}


def shipped(suite: str, name: str) -> Member:
    """A member of a shipped suite."""
    members = load_suite(ROOT / "suites" / f"{suite}.yaml").members
    return next(member for member in members if member.name == name)


def _small(this: Member) -> Member:
    return this.model_copy(update={"train": this.train.model_copy(update={"epochs": 1, "batch_size": 16})})


def begun(this: Member, seed: int, held: Rows, setting: Setting) -> Course:
    """A run before its first step: the network with its initial weights, and the precision it takes."""
    torch.manual_seed(derive(seed, "init"))
    network = build(this, find_weights(this))
    engine = choose_engine(network, this, setting.device)
    return Course(network, engine, held, target=0.0 if setting.is_quick else TARGET)


def by_fit(this: Member, rows: Rows, held: Rows, seed: int, setting: Setting) -> Course:
    """Train with the engine, over the member's whole schedule unless the target or the limit comes first."""
    course = begun(this, seed, held, setting)
    job = Job(course.network, this, *rows, seed, course.score)
    course.start()
    with contextlib.suppress(StoppedError):
        fit(job, course.engine, should_stop=course.is_over)
    course.stop()
    return course


def by_script(this: Member, rows: Rows, held: Rows, seed: int, setting: Setting) -> Course:
    """Train as a careful script does: DataLoader, torchvision's flip, fp32, a constant rate, no end but the limit."""
    course = begun(this, seed, held, setting)
    workers = 0 if setting.is_quick else _workers(this, rows, setting)
    torch.manual_seed(derive(seed, "order"))
    loop = _loop(course.network, this, rows, workers, setting)
    course.start()
    while not course.is_over():
        loop(course.is_over)
        if not course.is_over():
            course.score(course.network.module)
    course.stop()
    return course


def _loop(network: Network, this: Member, rows: Rows, workers: int, setting: Setting) -> UsualLoop:
    from torchvision.transforms import RandomHorizontalFlip

    return UsualLoop(network, this, setting.device, "fp32", Usual(*rows, network, [RandomHorizontalFlip()]), workers)


def _workers(this: Member, rows: Rows, setting: Setting) -> int:
    """How many workers make the script fastest, tried with a network that is thrown away."""
    some = rows[0][: 8 * this.train.batch_size], rows[1][: 8 * this.train.batch_size]
    return faster(lambda n: _loop(build(this, None), this, some, n, setting), setting.device).workers


def _figure(name: str, this: Member, courses: dict[int, Course], held: int) -> Figure:
    values = {seed: course.seconds if course.is_reached else None for seed, course in courses.items()}
    first, seeds = next(iter(courses.values())), "1 seed" if len(courses) == 1 else f"{len(courses)} seeds"
    facts: dict[str, Any] = {
        "accuracy": {str(seed): [round(a, 4) for a in course.accuracies] for seed, course in courses.items()},
        "limit": first.limit,
        "batch": this.train.batch_size,
        "precision": first.engine.precision,
    }
    of = (
        f"{100 * first.target:.0f} % of {held} held-out rows of Training right at the end of an epoch, scoring not "
        f"counted; given up after {first.limit:.0f} s or at the end of the schedule; {seeds}"
    )
    return Figure(name, values, "s", of, facts, _missed(list(courses.values())))


def _missed(courses: list[Course]) -> str | None:
    """What the seeds that did not reach the target came to."""
    missed = [course for course in courses if not course.is_reached]
    if not missed:
        return None
    seconds, best = max(course.seconds for course in missed), 100 * max(course.best for course in missed)
    by = f" by {len(missed)} of {len(courses)} seeds" if len(courses) > 1 else ""
    return f"not reached{by} in {seconds:.0f} s, {best:.1f} %"
