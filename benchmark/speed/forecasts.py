"""What ``--dry-run`` promises of a training, time and memory, beside what ``train.fit`` takes."""

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from torch import nn

from fer_bench import toyfaces
from fer_bench.allocation import keep_freed_memory
from fer_bench.config import Member
from fer_bench.predict import BATCH, probabilities
from fer_bench.suite import estimate
from fer_bench.suite import members as suite
from fer_bench.suite.memory import occupied, peak_memory, reset_peak
from fer_bench.suite.plan import Options, Run
from fer_bench.train import Engine, Job, Progress, choose_engine, fit
from measure import Row, Setting
from training import faces, made, member

AIM = "0.8 to 1.2"
SIDES = (48, 96)
CNN = ("baseline:cnn", 48)
LEAST_STEPS = 3
DROPPED = 2
"""Epochs before the first that counts."""
Sides = dict[str, list[float]]


def forecasts(setting: Setting) -> list[Row]:
    """Measure time and memory of training over what is promised, each network in a process of its own."""
    sides = SIDES[:1] if setting.is_quick else SIDES
    networks = [*((backbone, side) for backbone in setting.backbones for side in sides), CNN]
    return [row for backbone, side in networks for row in _rows(member(backbone, side, setting), setting)]


def _rows(this: Member, setting: Setting) -> list[Row]:
    step = promise(this, LEAST_STEPS, setting)[0] / LEAST_STEPS
    steps = int(min(500, max(LEAST_STEPS, setting.block_seconds / step)))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds, peaks, engine = pool.submit(both, this, steps, setting).result()
    name = f"{this.backbone}, {this.image_size} px"
    facts = {"batch": this.train.batch_size, "precision": engine.precision, "threads": engine.threads, "steps": steps}
    return [
        Row(f"{name}: time", seconds, "measured", "promised", AIM, facts),
        Row(f"{name}: peak memory", peaks, "measured", "promised", AIM, facts, "bytes"),
    ]


def both(this: Member, steps: int, setting: Setting) -> tuple[Sides, Sides, Engine]:
    """Seconds and bytes of both sides, and what the machine chose.

    Promises are made in turns with epochs, of which the first two are dropped.
    Memory is the peak of those two epochs, scoring included, over what the process held before it had a network; it is
    read before anything is promised, so it has one repeat.
    """
    import timm.utils  # noqa: F401  # to be in memory before it is read

    keep_freed_memory()
    images, labels = faces(steps * this.train.batch_size)
    scored = images[:1].repeat(scored_images(setting), axis=0)
    reset_peak(setting.device)
    before = occupied(setting.device)
    network = made(this, setting)[0]
    engine = choose_engine(network, this, setting.device)
    taken: list[float] = []
    promised: list[tuple[float, int]] = []
    peaks: list[int] = []

    def validate(module: nn.Module) -> tuple[float, float]:
        scoring = replace(network, module=module)
        probabilities(scoring, scored, device=setting.device, precision=engine.precision)
        return 0.0, 0.0

    def report(where: Progress) -> None:
        if where.entry is None or where.epoch < DROPPED:
            return
        if not peaks:
            peaks.append(peak_memory(setting.device) - before)
        else:
            taken.append(where.entry["seconds"])
        promised.append(promise(this, steps, setting))

    train = this.train.model_copy(update={"epochs": setting.repeats + DROPPED})
    job = Job(network, this.model_copy(update={"train": train}), images, labels, 0, validate)
    fit(job, engine, report=report)
    seconds = {"measured": taken, "promised": [found[0] for found in promised[1:]]}
    return seconds, {"measured": [float(peaks[0])], "promised": [float(promised[0][1])]}, engine


def promise(this: Member, steps: int, setting: Setting) -> tuple[float, int]:
    """Seconds of one epoch of so many steps, and bytes at most, as a dry run finds them."""
    counts = {"Training": steps * this.train.batch_size, "PublicTest": 0, "PrivateTest": 0}
    once = this.model_copy(update={"train": this.train.model_copy(update={"epochs": 1})})
    with tempfile.TemporaryDirectory(prefix="fer-bench-speed-") as name:
        folder = Path(name)
        options, none = Options(runs_dir=folder), toyfaces.load(counts=(0, 0, 0))
        forecast = estimate.Forecast(
            suite.Setting("speed", "", folder, none, {"counts": counts}, options, setting.device)
        )
        found = forecast.measured(once)
        seconds = forecast.seconds(Run(once, 0, None, {"seed": 0, "name": this.name}, "new")) - estimate.START_SECONDS
    counts |= {"PublicTest": scored_images(setting)}
    return seconds, estimate.peak_bytes(once, found, counts, setting.device, only_scored=False)


def scored_images(setting: Setting) -> int:
    """Images that are scored after an epoch: a whole batch of them."""
    return 16 if setting.is_quick else BATCH
