"""A network with what its inputs need: side, channels, mean and standard deviation; its parameter groups."""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_bench.config import Train
from fer_bench.data.faces import SIDE
from fer_bench.models.depthwise import use_products

CLASSES = 7
MIN_LR_SCALE = 0.01
"""Layer decay never goes below this share, or the stem of a deep network would not train at all."""


@dataclass(frozen=True)
class Network:
    """A module that maps (B, channels, side, side), normalised by ``mean`` and ``std``, to logits (B, 7)."""

    module: nn.Module
    side: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sampling: Literal["twice", "once"] = "twice"
    """How faces get to ``side``: moved at 48 px, then resized, bilinear; or straight there, bicubic."""

    @property
    def sampled_side(self) -> int | None:
        """The side that faces are sampled at as they are moved and turned, bicubic; None: their own, bilinear."""
        return max(SIDE, self.side) if self.sampling == "once" else None

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a module to a device, its convolutions in channels-last order and, on a CPU, as fast as they can be."""
    module.to(device)
    if device.type == "cpu":
        use_products(module)
    return module.to(memory_format=torch.channels_last)


def to_gray(images: Tensor) -> Tensor:
    """Faces (B, 48, 48) uint8 -> (B, 1, 48, 48) float32 in [0, 1]."""
    return images.unsqueeze(1).float() / 255


def to_input(gray: Tensor, network: Network) -> Tensor:
    """Gray (B, 1, H, W) in [0, 1] -> (B, channels, S, S): resized, repeated, normalised as the weights expect."""
    if gray.shape[-1] != network.side:
        smaller, mode = network.side < gray.shape[-1], "bicubic" if network.sampling == "once" else "bilinear"
        gray = F.interpolate(gray, size=(network.side,) * 2, mode=mode, align_corners=False, antialias=smaller)
        gray = gray.clamp(0, 1) if mode == "bicubic" else gray  # which overshoots at edges
    mean, std = (_by_channel(values, gray.device) for values in (network.mean, network.std))
    return ((gray - mean) / std).contiguous(memory_format=torch.channels_last)


@functools.lru_cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values as (1, C, 1, 1) on a device, kept there: to send them in every step would wait for a GPU every time."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, -1, 1, 1)


def parameter_groups(network: Network, train: Train) -> list[dict[str, Any]]:
    """Split parameters into groups with ``lr_scale`` (layer decay) and ``weight_decay`` (0 for biases and norms)."""
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    if train.layer_decay < 1:
        groups = param_groups_layer_decay(
            network.module, weight_decay=train.weight_decay, layer_decay=train.layer_decay, min_scale=MIN_LR_SCALE
        )
    else:
        groups = param_groups_weight_decay(network.module, weight_decay=train.weight_decay)
    return [{"lr_scale": 1.0} | group for group in groups]
