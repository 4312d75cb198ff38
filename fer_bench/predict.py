"""Network + images + view sets -> probabilities."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from fer_bench import augment
from fer_bench.models import CLASSES, Network, to_gray, to_input
from fer_bench.train import autocast, is_full
from fer_bench.views import view_set

BATCH = 256
"""Images a forward pass at most; halved when they do not fit into memory."""


def probabilities(
    network: Network, images: np.ndarray, view: str = "none", *, device: torch.device, precision: str = "fp32"
) -> np.ndarray:
    """Class probabilities of each image, averaged over one view set, (N, 7); see ``by_view_set``."""
    return by_view_set(network, images, [view], device=device, precision=precision)[view]


def by_view_set(
    network: Network, images: np.ndarray, names: Sequence[str], *, device: torch.device, precision: str = "fp32"
) -> dict[str, np.ndarray]:
    """Class probabilities of each image for several view sets; a view that sets share is one forward pass.

    Args:
        network: its module is put into evaluation mode, and back.
        images: (N, 48, 48) uint8.
        names: view sets of ``views.NAMES``.
        device: where the module is.
        precision: ``fp32``, ``bf16`` or ``fp16``, for the forward passes only; views are averaged in fp32.

    Returns:
        (N, 7) float32 for each name, rows sum to 1; the other names change no bit of it.
    """
    module, was_training = network.module, network.module.training
    module.eval()
    try:
        with torch.inference_mode(), autocast(device, precision):
            found = [_batch(network, chunk.to(device), names) for chunk in torch.from_numpy(images).split(BATCH)]
    finally:
        module.train(was_training)
    stacked = torch.cat(found, dim=1).cpu().numpy() if found else np.zeros((len(names), 0, CLASSES), np.float32)
    return dict(zip(names, stacked, strict=True))


def _batch(network: Network, images: Tensor, names: Sequence[str]) -> Tensor:
    """(B, 48, 48) uint8 -> (sets, B, 7) float32; splits the batch in halves while it does not fit into memory."""
    try:
        return _averages(network, to_gray(images), names)
    except RuntimeError as error:
        if len(images) == 1 or not is_full(error):
            raise
    torch.cuda.empty_cache()
    return torch.cat([_batch(network, half, names) for half in images.chunk(2)], dim=1)


def _averages(network: Network, gray: Tensor, names: Sequence[str]) -> Tensor:
    """(B, 1, 48, 48) -> (sets, B, 7): each distinct view once, in one order whichever sets ask for it."""
    sets = [view_set(name) for name in names]
    total = torch.zeros(len(sets), len(gray), CLASSES, device=gray.device)
    for upright, views in groupby(sorted(set().union(*sets)), key=lambda view: view.upright):
        x = to_input(augment.copy_of(gray, upright, network.sampled_side), network)
        for view in views:
            p = _softmax(network.module, x.flip(-1) if view.mirror else x)
            for row, weights in zip(total, sets, strict=True):
                if view in weights:
                    row += weights[view] * p
    return total


def _softmax(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).float().softmax(dim=1)
