"""``dlib:face_recognition_resnet``: dlib's face recognition network, for what pretraining on faces gives, not ImageNet.

A ResNet of 29 convolutions by Davis King that maps faces of 150 px to 128 numbers, learned from three million faces
of 7,485 people; the file is in the public domain (https://github.com/davisking/dlib-models). 5.6 M parameters.
"""

import bz2
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_bench import toyfaces
from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.models.names import require_options, require_own
from fer_bench.models.network import CLASSES, Network, to_gray, to_input
from fer_bench.models.weights import Weights

MEAN, STD = tuple(value / 255 for value in (122.782, 117.001, 104.298)), (256 / 255,) * 3
PLAN = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
"""Filters and blocks of each level; the first block of every level but the first halves the image."""
FORMAT = 2
"""The version that dlib writes before a tensor."""


class FaceRecognitionResNet(nn.Module):
    """dlib's ``anet_type`` with a new head; its inputs need sides of 103 px or more."""

    def __init__(self, drop_rate: float = 0.0) -> None:
        super().__init__()
        filters = PLAN[0][0]
        self.stem, self.norm = nn.Conv2d(3, filters, 7, stride=2, bias=False), nn.BatchNorm2d(filters)
        blocks = []
        for level, (wider, count) in enumerate(PLAN):
            for index in range(count):
                blocks.append(Block(filters, wider, halves=level > 0 and index == 0))
                filters = wider
        self.blocks = nn.Sequential(*blocks)
        self.drop, self.head = nn.Dropout(drop_rate), nn.Linear(filters, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, S, S) to logits (B, 7)."""
        return self.head(self.drop(self.features(x)))

    def features(self, x: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, 256), from which dlib's last layer makes its 128 numbers."""
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2)
        return self.blocks(x).mean((2, 3))

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Tell timm what a layer is to layer decay: the stem, each block, and the head, which it adds itself."""
        return {"stem": "^stem|^norm", "blocks": r"^blocks\.(\d+)"}


class Block(nn.Module):
    """Two 3x3 convolutions beside the input, or its 2x2 means where they halve it; zeros fill up what is smaller."""

    def __init__(self, channels: int, filters: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.conv1 = nn.Conv2d(channels, filters, 3, 2 if halves else 1, 0 if halves else 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2, self.norm2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, F, H, W), or to half of the height and width."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.halves:
            x = F.avg_pool2d(x, 2)
            right, below = x.shape[3] - y.shape[3], x.shape[2] - y.shape[2]
            y, x = F.pad(y, (0, right, 0, below)), F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return F.relu(x + y)


DLIB: Mapping[str, Callable[..., nn.Module]] = {"face_recognition_resnet": FaceRecognitionResNet}


def dlib(member: Member, weights: Weights | None) -> Network:
    """Make the network of ``dlib:NAME``, with dlib's weights unless it starts from scratch."""
    name = member.backbone.removeprefix("dlib:")
    require_own(member, DLIB)
    require_options(member, DLIB[name])
    network = Network(DLIB[name](**member.options), member.image_size, 3, MEAN, STD, member.sampling)
    if weights is not None:
        load(network, weights.path)
    return network


def load(network: Network, path: Path) -> None:
    """Fill all but the head from dlib's file, by bzip2 or plain, so that features are those of dlib in scoring.

    The file has the scale and offset that were left of each batch normalisation, no statistics, and filters so small
    that a step of an optimiser would replace them. So filters are scaled to the usual spread and normalised again
    by the statistics of drawn faces, and scales and offsets take back what both change.

    Raises:
        UserError: for a file that cannot be read, or is not dlib's.
    """
    module: Any = network.module
    pairs = [(module.stem, module.norm)]
    for block in module.blocks:
        pairs += [(block.conv1, block.norm1), (block.conv2, block.norm2)]
    data, at = _read(path), 0
    try:
        for convolution, norm in pairs:
            at = _load_pair(convolution, norm, data, at)
    except (ValueError, IndexError):
        raise UserError(f"weights: {path} is not dlib's face recognition network, or a damaged copy of it") from None
    _normalise(network, [norm for _, norm in pairs])


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return bz2.decompress(data) if data.startswith(b"BZh") else data
    except (OSError, ValueError) as error:
        raise UserError(f"weights: {path} cannot be read ({getattr(error, 'strerror', None) or error})") from None


@torch.no_grad()
def _load_pair(convolution: nn.Conv2d, norm: nn.BatchNorm2d, data: bytes, at: int) -> int:
    """Take the next convolution and its scale and offset after ``at``; the position behind them."""
    filters, weight = convolution.out_channels, convolution.weight
    values, at = _tensor(data, at, b"con_4", weight.numel() + filters)
    affine, at = _tensor(data, at, b"affine_", 2 * filters)
    theirs, bias = values[: weight.numel()].view_as(weight), values[weight.numel() :]
    scale, offset = affine[:filters], affine[filters:]
    usual = (2 / (filters * weight[0, 0].numel())) ** 0.5  # He's, by the outputs
    grown = usual / theirs.flatten(1).std(1).clamp(min=1e-12)
    weight.copy_(theirs * grown.view(-1, 1, 1, 1))
    norm.weight.copy_(scale / grown)
    norm.bias.copy_(offset + scale * bias)
    return at


def _tensor(data: bytes, at: int, layer: bytes, size: int) -> tuple[Tensor, int]:
    """Read the tensor of ``size`` numbers of the next such layer; a ValueError where there is none."""
    at = data.index(bytes([1, len(layer)]) + layer, at) + 2 + len(layer)
    found = []
    for _ in range(5):
        count = data[at]  # an integer is the number of its bytes, then these, the lowest first
        found.append(int.from_bytes(data[at + 1 : at + 1 + count], "little"))
        at += 1 + count
    if found != [FORMAT, size, 1, 1, 1]:
        raise ValueError(f"{layer.decode()} has {found}, expected {size} numbers")
    values = np.frombuffer(data, "<f4", size, at).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{layer.decode()} has numbers that are not finite")
    return torch.from_numpy(values), at + 4 * size


@torch.no_grad()
def _normalise(network: Network, norms: list[nn.BatchNorm2d]) -> None:
    """Give each normalisation the statistics of drawn faces, and take them back from its scale and offset."""

    def fit(norm: Any, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.bias.add_(norm.weight * mean)
        norm.weight.mul_((variance + norm.eps).sqrt())

    faces = torch.from_numpy(toyfaces.load(counts=(64, 0, 0)).images)
    hooks = [norm.register_forward_pre_hook(fit) for norm in norms]
    network.module.eval()(to_input(to_gray(faces), network))
    network.module.train()
    for hook in hooks:
        hook.remove()
