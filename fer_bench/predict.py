"""Network + images + view set -> probabilities."""

import numpy as np
import torch
from torch import Tensor, nn

from fer_bench import augment
from fer_bench.models import Network, to_gray, to_input
from fer_bench.train import autocast

BATCH = 256
"""Images a forward pass at most; halved when they do not fit into memory."""


def probabilities(
    network: Network, images: np.ndarray, view: str = "none", *, device: torch.device, precision: str = "fp32"
) -> np.ndarray:
    """Class probabilities of each image, averaged over a view set in fp32.

    Args:
        network: its module is put into evaluation mode, and back.
        images: (N, 48, 48) uint8.
        view: a view set of ``augment.PASSES``.
        device: where the module is.
        precision: ``fp32``, ``bf16`` or ``fp16``, for the forward passes only.

    Returns:
        (N, 7) float32, rows sum to 1.
    """
    module, was_training = network.module, network.module.training
    module.eval()
    try:
        with torch.inference_mode(), autocast(device, precision):
            rows = [_batch(network, chunk.to(device), view) for chunk in torch.from_numpy(images).split(BATCH)]
    finally:
        module.train(was_training)
    return torch.cat(rows).cpu().numpy() if rows else np.zeros((0, 7), np.float32)


def _batch(network: Network, images: Tensor, view: str) -> Tensor:
    """(B, 48, 48) uint8 -> (B, 7) float32; splits the batch in halves while it does not fit into memory."""
    try:
        x = to_input(to_gray(images), network)
        return torch.stack([w * _softmax(network.module, v) for w, v in augment.views(x, view)]).sum(0)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    torch.cuda.empty_cache()
    return torch.cat([_batch(network, half, view) for half in images.chunk(2)])


def _softmax(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).float().softmax(dim=1)
