"""``scratch:NAME``: networks for faces at their native 48 px, without ImageNet weights.

Networks for large photographs have a quarter of the side left at their first block. These keep all of it, by stems of
3x3 convolutions with stride 1; ConvNeXt, which works on patches, keeps half. Blocks are those of timm and torchvision.
Parameters below are at 48 px with the default options; 10^9 multiplications (G) are those of one forward pass.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, ValidationError, validate_call
from torch import Tensor, nn

from fer_bench.config import Member, first_problem
from fer_bench.errors import UserError
from fer_bench.models.names import require_options, require_own
from fer_bench.models.network import CLASSES, Network

MEAN, STD = 0.5077, 0.2550
"""Of the gray values of all 28,709 images of Training, from 0 to 1."""

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[float, Field(ge=0.05)]
"""Filters as a share of the usual ones."""
ResNetWidth = Annotated[float, Field(ge=0.25)]
"""16 filters and more: with 12, torch's CPU gradients of 1x1 convolutions with stride 2 write beside their memory."""

_checked = validate_call(config=ConfigDict(strict=True))  # options come from users


@_checked
def vgg(width: Width = 1.0, dense: Count = 4096, drop_rate: Rate = 0.2) -> nn.Module:
    """Khaireddin and Chen's VGG (arXiv 2105.03588): four pairs of 3x3 convolutions, two dense layers.

    40.4 M parameters, 0.5 G; 29.9 M at the 40 px of their crops, which leave 2x2 pixels to the dense layers.
    """
    from torchvision.models.vgg import make_layers

    filters = _filters(width)
    plan: list[str | int] = [part for n in filters for part in (n, n, "M")]
    convolutions = make_layers(plan, batch_norm=True)
    convolutions[0] = nn.Conv2d(1, filters[0], 3, padding=1)
    head = [nn.Flatten(), nn.LazyLinear(dense), nn.Dropout(drop_rate), nn.ReLU()]
    head += [nn.Linear(dense, dense), nn.Dropout(drop_rate), nn.ReLU(), nn.Linear(dense, CLASSES)]
    return nn.Sequential(convolutions, *head)


def resnet(
    depth: int,
    attention: str | None = None,
    width: float = 1.0,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """ResNet (arXiv 1512.03385) with the stem that is usual for small images; ``se`` adds squeeze and excitation.

    18 layers have 11.2 M parameters and 1.3 G, 34 layers 21.3 M and 2.6 G; 18 layers of a quarter of the filters
    have 0.7 M and 0.1 G.
    """
    import timm

    filters = _filters(width)
    options: dict[str, Any] = {"channels": filters}
    blocks: dict[str, Any] = {"attn_layer": attention} if attention else {}
    options |= {"block_args": blocks, "drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    module: Any = timm.create_model(f"resnet{depth}", in_chans=1, num_classes=CLASSES, **options)
    module.conv1, module.maxpool = _stem(filters[0]), nn.Identity()
    if filters[0] != 64:  # of timm's ResNets the stem has 64 whatever the blocks have
        module.bn1 = nn.BatchNorm2d(filters[0])
        module.layer1[0] = type(module.layer1[0])(filters[0], filters[0], **blocks)
        module.init_weights()
    return module


@_checked
def resnet18(width: ResNetWidth = 1.0, drop_rate: Rate = 0.0, drop_path_rate: Rate = 0.0) -> nn.Module:
    """See ``resnet``."""
    return resnet(18, None, width, drop_rate, drop_path_rate)


@_checked
def resnet34(width: ResNetWidth = 1.0, drop_rate: Rate = 0.0, drop_path_rate: Rate = 0.0) -> nn.Module:
    """See ``resnet``."""
    return resnet(34, None, width, drop_rate, drop_path_rate)


@_checked
def seresnet18(width: ResNetWidth = 1.0, drop_rate: Rate = 0.0, drop_path_rate: Rate = 0.0) -> nn.Module:
    """See ``resnet``; squeeze and excitation are of arXiv 1709.01507."""
    return resnet(18, "se", width, drop_rate, drop_path_rate)


@_checked
def wideresnet(depth: int = 16, width: Count = 8, drop_rate: Rate = 0.0, drop_path_rate: Rate = 0.0) -> nn.Module:
    """Zagoruyko and Komodakis' wide ResNet (arXiv 1605.07146), with activations before the convolutions.

    11.0 M parameters and 3.5 G with a depth of 16 and eight times the width.
    """
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import ResNetV2

    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise UserError(f"options.depth: must be 6 n + 4, such as 10, 16 or 22, found {depth}")
    module: Any = ResNetV2(
        [blocks] * 3,
        channels=(16 * width, 32 * width, 64 * width),
        num_classes=CLASSES,
        in_chans=1,
        stem_chs=16,
        basic=True,
        bottle_ratio=1.0,
        conv_layer=create_conv2d,
        norm_layer=BatchNormAct2d,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    module.stem = _stem(16)
    return module


@_checked
def densenet(growth: Count = 24, layers: Count = 16, drop_rate: Rate = 0.0) -> nn.Module:
    """DenseNet-BC for small images (arXiv 1608.06993): three blocks of equal depth, the third of them at 12 px.

    3.0 M parameters, 2.6 G; with ``growth`` 12 it is their DenseNet-BC of 100 layers, 0.8 M and 0.6 G.
    """
    from timm.models.densenet import DenseNet

    module = DenseNet(growth, (layers,) * 3, num_classes=CLASSES, in_chans=1, drop_rate=drop_rate)
    module.features.conv0, module.features.pool0 = _stem(2 * growth), nn.Identity()
    return module


@_checked
def convnext(width: Count = 40, drop_rate: Rate = 0.0, drop_path_rate: Rate = 0.1) -> nn.Module:
    """ConvNeXt V2 (arXiv 2301.00808) of the size Atto, whose patches are of 2x2 and not 4x4 pixels.

    3.4 M parameters, 0.1 G.
    """
    from timm.models.convnext import ConvNeXt

    module: Any = ConvNeXt(
        in_chans=1,
        num_classes=CLASSES,
        depths=(2, 2, 6, 2),
        dims=tuple(width * n for n in (1, 2, 4, 8)),
        patch_size=2,
        use_grn=True,
        ls_init_value=None,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )
    module.stages[0].downsample = nn.Identity()  # of patches of 2x2 timm halves the first stage once more
    return module


@_checked
def resmasking(depth: Literal[18, 34] = 34, widen: Count = 2, drop_rate: Rate = 0.4) -> nn.Module:
    """Pham, Vu and Tran's residual masking network (ICPR 2020) over the ResNet of ``resnet``.

    137.8 M parameters and 16 G with their masks, which double the filters with every level; 40.3 M and 5.2 G where
    ``widen`` is 1.
    """
    return ResidualMasking(resnet(depth), widen, drop_rate)


class ResidualMasking(nn.Module):
    """A ResNet, each stage x of which is followed by x (1 + mask(x))."""

    def __init__(self, resnet: Any, widen: int, drop_rate: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.act1)
        self.stages = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4])
        self.masks = nn.ModuleList([Mask(64 * 2**level, 4 - level, widen) for level in range(4)])
        self.pool, self.drop, self.head = resnet.global_pool, nn.Dropout(drop_rate), resnet.fc

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, S, S), S a multiple of 8, to logits (B, 7)."""
        x = self.stem(x)
        for stage, mask in zip(self.stages, self.masks, strict=True):
            x = stage(x)
            x = x * (1 + mask(x))
        return self.head(self.drop(self.pool(x)))


class Mask(nn.Module):
    """A U-Net of residual blocks whose output sums to 1 over channels: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, levels: int, widen: int) -> None:
        from timm.models.resnet import BasicBlock

        super().__init__()
        filters = [channels * widen**level for level in range(levels + 1)]
        self.down = nn.ModuleList([_block(a, b) for a, b in itertools.pairwise(filters)])
        back = list(itertools.pairwise(filters[:0:-1]))
        self.up = nn.ModuleList([_doubled(a, b) for a, b in back])
        self.merge = nn.ModuleList([_block(2 * b, b) for _, b in back])
        self.last = _block(filters[1], channels)
        for module in self.modules():  # as the authors: every block starts as its shortcut
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                module.zero_init_last()

    def forward(self, x: Tensor) -> Tensor:
        """Give every channel its share of each pixel."""
        passed = []
        for index, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if index else x)
            passed.append(x)
        for up, merge, skipped in zip(self.up, self.merge, passed[-2::-1], strict=True):
            x = merge(torch.cat([up(x), skipped], dim=1))
        return self.last(x).softmax(dim=1)


def _block(channels: int, filters: int) -> nn.Module:
    from timm.models.resnet import BasicBlock, downsample_conv

    return BasicBlock(channels, filters, downsample=downsample_conv(channels, filters, kernel_size=1))


def _doubled(channels: int, filters: int) -> nn.Module:
    """Twice the height and width."""
    return nn.Sequential(nn.ConvTranspose2d(channels, filters, 2, stride=2), nn.BatchNorm2d(filters), nn.ReLU())


def _filters(width: float) -> list[int]:
    """Those of four levels, 64 to 512 where ``width`` is 1."""
    return [round(n * width) for n in (64, 128, 256, 512)]


def _stem(filters: int) -> nn.Conv2d:
    """A 3x3 convolution of one channel that keeps the size."""
    convolution = nn.Conv2d(1, filters, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


SCRATCH: Mapping[str, Callable[..., nn.Module]] = {
    made.__name__: made for made in (vgg, resnet18, resnet34, seresnet18, wideresnet, densenet, convnext, resmasking)
}


def scratch(member: Member) -> Network:
    """Make the network of ``scratch:NAME``, which has no pretrained weights."""
    name = member.backbone.removeprefix("scratch:")
    require_own(member, SCRATCH)
    require_options(member, SCRATCH[name])
    try:
        module = SCRATCH[name](**member.options)
    except ValidationError as error:
        raise UserError(f"options.{first_problem(error)}") from None
    if any(isinstance(layer, nn.LazyLinear) for layer in module.modules()):
        module.eval()(torch.zeros(1, 1, member.image_size, member.image_size))
        module.train()
    return Network(module, member.image_size, 1, (MEAN,), (STD,))
