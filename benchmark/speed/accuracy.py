"""What the settings of the engine do to accuracy: the same network, recipe, rows and draws with each of them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fer_bench import data, splits, toyfaces
from fer_bench.allocation import keep_freed_memory
from fer_bench.augment import augment
from fer_bench.config import Member
from fer_bench.models import build, to_gray, to_input
from fer_bench.predict import probabilities
from fer_bench.train import derive, lr_factor
from measure import Figure, Setting
from training import RECIPE, Bare, Case, cases, is_working, made, member

SEEDS = (0, 1, 2)
SIDE = 48
CUT_SEED = 0


@dataclass(frozen=True)
class Task:
    """Faces (N, 48, 48) uint8 with labels (N,) to fit and to score, and the epochs over the first."""

    source: str
    fit: tuple[np.ndarray, np.ndarray]
    score: tuple[np.ndarray, np.ndarray]
    epochs: int

    @property
    def in_words(self) -> str:
        """What is learnt and scored."""
        of = f"{len(self.fit[1])} rows of {self.source} in {self.epochs} epochs"
        return (
            f"on {len(self.score[1])} rows held out, trained on {of}; mean and range of seeds {SEEDS[0]} to {SEEDS[-1]}"
        )


def task(setting: Setting) -> Task:
    """Stratified rows of Training, twins on one side: as many as a CPU or a GPU learns in minutes; or toy faces."""
    if setting.data is None:
        faces = toyfaces.load(counts=(140 if setting.is_quick else 1400, 7, 7))
        fit, score, epochs, source = 0.75, 0.25, 1 if setting.is_quick else 8, "toy faces"
    else:
        faces, source = data.load(setting.data), "Training"
        rows = int((faces.parts == 0).sum())
        most, epochs = ((3000, 1500), 3) if setting.device.type == "cpu" else ((24_000, 4000), 6)
        fit, score = (count / rows for count in most)
    images, labels = splits.part(faces, "Training")
    if fit + score < 0.99:
        taken = splits.holdout(images, labels, fit + score, CUT_SEED)
        images, labels = images[taken], labels[taken]
    held = splits.holdout(images, labels, score / (fit + score), CUT_SEED)
    return Task(source, (images[~held], labels[~held]), (images[held], labels[held]), epochs)


def accuracy(setting: Setting) -> list[Figure]:
    """Measure the validation accuracy of each setting after the last epoch, over three seeds.

    A quick run compiles nothing: that takes minutes whatever the network learns.
    """
    keep_freed_memory()
    this, rows = member(setting.backbones[0], SIDE, setting), task(setting)
    working = [case for case in cases(this, setting.device) if not case.compiles or _compiles(case, this, setting)]
    return [_figure(case, this, rows, setting) for case in working]


def _compiles(case: Case, this: Member, setting: Setting) -> bool:
    return not setting.is_quick and is_working(case.bare(made(this, setting)[0], this, setting.device))


def _figure(case: Case, this: Member, rows: Task, setting: Setting) -> Figure:
    name = f"{this.backbone}, {SIDE} px{', toy faces' if rows.source == 'toy faces' else ''}: {case.name}"
    values: dict[int, float | None] = {seed: 100 * trained(case, this, rows, seed, setting.device) for seed in SEEDS}
    counts = {"rows": len(rows.fit[1]), "scored": len(rows.score[1]), "epochs": rows.epochs}
    facts = counts | {"batch": this.train.batch_size, "precision": case.precision, "data": rows.source}
    return Figure(name, values, "%", rows.in_words, facts)


def trained(case: Case, this: Member, rows: Task, seed: int, device: torch.device) -> float:
    """Train from scratch; the accuracy on the other rows. All draws follow from the seed, none from the setting."""
    torch.manual_seed(derive(seed, "init"))
    network = build(this, None)
    bare = case.bare(network, this, device)
    images, labels = (torch.from_numpy(array).to(device) for array in rows.fit)
    batch = min(this.train.batch_size, len(labels))
    steps = len(labels) // batch
    for step in range(steps * rows.epochs):
        epoch, place = divmod(step, steps)
        drawn = torch.randperm(len(labels), generator=_generator(seed, epoch, "order"))[place * batch :][:batch].to(
            device
        )
        gray = augment(to_gray(images[drawn]), RECIPE, _generator(seed, epoch, place, "augment"))
        rate = this.train.lr * lr_factor(this.train, step, steps * rows.epochs)
        _step(bare, to_input(gray, network), labels[drawn], rate)
    torch.compiler.reset()
    p = probabilities(network, rows.score[0], device=device, precision=case.precision)
    return float((p.argmax(axis=1) == rows.score[1]).mean())


def _step(bare: Bare, x: Tensor, y: Tensor, rate: float) -> None:
    bare.x, bare.y = x if bare.is_channels_last else x.contiguous(), y
    for group in bare.optimizer.param_groups:
        group["lr"] = rate
    bare()


def _generator(*path: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive(int(path[0]), *path[1:]))
