"""The first networks of the field, on gray pixels in [0, 1]."""

import itertools
from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.models.names import either, require_options, require_own
from fer_bench.models.network import CLASSES, Network

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "elu": F.elu, "selu": F.selu}


class BaselineMLP(nn.Module):
    """48x48 -> 120 -> 84 -> 7 with ReLU, on pixels in [0, 1]."""

    def __init__(self, side: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, S, S) to logits (B, 7)."""
        return self.layers(x)


class BaselineCNN(nn.Module):
    """3x3 convolutions of 128, 128, 64 and 64 filters without padding, 2x2 max-pool after the first three, 64, 7.

    The activation follows the pooling: for a rising function the result is that of the usual order, for a quarter
    of the work.
    """

    def __init__(self, side: int = 48, conv_activation: str = "relu", dense_activation: str = "selu") -> None:
        super().__init__()
        self.conv_activation, self.dense_activation = ACTIVATIONS[conv_activation], ACTIVATIONS[dense_activation]
        filters = (1, 128, 128, 64, 64)
        self.convolutions = nn.ModuleList([nn.Conv2d(a, b, 3) for a, b in itertools.pairwise(filters)])
        for _ in range(3):
            side = (side - 2) // 2
        if side < 3:
            raise ValueError(f"{side} px are left for the last convolution, which takes 3 or more")
        self.dense = nn.Linear(64 * (side - 2) ** 2, 64)
        self.head = nn.Linear(64, CLASSES)
        for layer in (*self.convolutions, self.dense, self.head):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, S, S) to logits (B, 7)."""
        for convolution in self.convolutions[:3]:
            x = self.conv_activation(F.max_pool2d(convolution(x), 2))
        x = self.conv_activation(self.convolutions[3](x)).flatten(1)
        return self.head(self.dense_activation(self.dense(x)))


BASELINES: Mapping[str, type[nn.Module]] = {"mlp": BaselineMLP, "cnn": BaselineCNN}


def baseline(member: Member) -> Network:
    """Make the network of ``baseline:NAME``, which has no pretrained weights."""
    name = member.backbone.removeprefix("baseline:")
    require_own(member, BASELINES)
    require_options(member, BASELINES[name])
    for key, value in member.options.items():
        if value not in ACTIVATIONS:
            raise UserError(f"options.{key}: unknown {value!r}; use {either(list(ACTIVATIONS))}")
    module = BASELINES[name](member.image_size, **member.options)
    return Network(module, member.image_size, 1, (0.0,), (1.0,))
