"""A guess of each run's time and memory, from one short step on the machine that would do it."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from fer_bench.augment import PASSES
from fer_bench.config import Member
from fer_bench.models import build, place
from fer_bench.suite.plan import Run
from fer_bench.train import autocast, choose_precision

PROBE_IMAGES = {"cpu": 8, "cuda": 64}
FORWARD_SHARE = 0.35
"""A forward pass as a share of a training step, for the validation and the scoring."""


def rows(plan: Sequence[Run], counts: dict[str, int], device: torch.device) -> list[dict[str, Any]]:
    """One row a run; each distinct network is measured once, and finished runs are not measured."""
    measured: dict[str, tuple[int, float, int]] = {}
    found = []
    for run in plan:
        row = {"name": run.member.name, "seed": run.seed, "backbone": run.member.backbone, "state": run.state}
        row |= {"fold": run.fold.index} if run.fold else {}
        row |= {"image_size": run.member.image_size, "unavailable": run.unavailable}
        if run.state != "done":
            key = f"{run.member.backbone} {run.member.image_size} {run.member.options} {run.member.train.precision}"
            if key not in measured:
                measured[key] = _measure(run.member, device)
            row |= _scale(run.member, *measured[key], counts, len(run.fold.held) if run.fold else 0)
        found.append(row)
    return found


def _measure(member: Member, device: torch.device) -> tuple[int, float, int]:
    """(parameters, seconds an image in training, bytes of activations an image)."""
    network = build(member, None)
    precision = choose_precision(network, member, device)
    module = place(network.module, device).train()
    n = PROBE_IMAGES.get(device.type, 8)
    x = torch.zeros(n, network.channels, network.side, network.side, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    half = _step(module, x[: n // 2], precision)[1]
    (_, whole), (seconds, _) = _step(module, x, precision), _step(module, x, precision)
    return network.parameters, seconds / n, max(0, whole - half) // (n - n // 2)


def _step(module: torch.nn.Module, x: torch.Tensor, precision: str) -> tuple[float, int]:
    """Forward and backward once; seconds, and the bytes that autograd kept in between, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), autocast(x.device, precision):
        start = time.perf_counter()
        loss = module(x).float().square().mean()
    loss.backward()
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start, sum(kept.values())


def _scale(
    member: Member, parameters: int, seconds: float, kept: int, counts: dict[str, int], held: int
) -> dict[str, Any]:
    """From one image to the whole run: weights, gradients, optimizer and average beside a batch's activations.

    ``held`` rows of Training are scored and not fitted on.
    """
    train = member.train
    copies = 2 + (2 if train.optimizer != "sgd" else 1) + (1 if train.ema else 0)
    public, private = counts["PublicTest"], counts["PrivateTest"]
    passes = sum(PASSES[view] for view in member.views)
    scored = public * train.epochs + (public + private + held) * passes
    fitted = counts["Training"] - held
    return {
        "parameters": parameters,
        "seconds": round(seconds * (fitted * train.epochs + FORWARD_SHARE * scored), 3),
        "bytes": 4 * parameters * copies + int(1.3 * kept * train.batch_size),
    }
