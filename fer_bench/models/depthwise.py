"""Depthwise convolutions whose filters are wider than their maps, as at the end of a network on small images.

There a CPU takes far longer for the gradient of the filters than for all else: oneDNN has no fast way for it.
Two matrix products give the same sums (benchmark/LOG.md); nothing else of the convolution changes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d`` of stride 1 with that gradient, on a CPU in full precision."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        is_ours = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.dim() == 4
        is_small = max(x.shape[-2:]) < max(self.kernel_size)
        if not is_ours or not is_small or not weight.requires_grad or torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(x, weight, bias)
        y = _Convolution.apply(x, weight, self.padding)
        return y if bias is None else y + bias.view(-1, 1, 1)


def use_products(module: nn.Module) -> None:
    """Turn every depthwise convolution of stride 1 of a module into a ``DepthwiseConv2d``, in place."""
    for each in module.modules():
        if type(each) is nn.Conv2d and _is_fitting(each):
            each.__class__ = DepthwiseConv2d


def _is_fitting(layer: nn.Conv2d) -> bool:
    is_depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
    is_plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return is_depthwise and is_plain and layer.stride == (1, 1) == layer.dilation


class _Convolution(torch.autograd.Function):
    """(B, C, H, W) and filters (C, 1, K, L) -> (B, C, H', W')."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
        context.save_for_backward(x, weight)
        context.padding = padding
        return F.conv2d(x, weight, None, 1, padding, 1, len(weight))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (gradient,), (x, weight) = gradients, context.saved_tensors
        inner, padding = None, list(context.padding)
        if context.needs_input_grad[0]:
            only_x = [True, False, False]
            inner = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), only_x
            )[0]
        # how each pixel of the result goes with each pixel of the input, over the batch: (C, H'W', HW)
        pairs = torch.bmm(gradient.flatten(2).permute(1, 2, 0), x.flatten(2).permute(1, 0, 2))
        taps = _taps(tuple(x.shape[2:]), tuple(weight.shape[2:]), tuple(padding)).to(x.dtype)
        return inner, (pairs.flatten(1) @ taps).view_as(weight), None


def _taps(size: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """(H'W' HW, KL) of zeros and ones: which number of the filter takes which pixel to which."""

    def along(n: int, taps: int, pad: int) -> Tensor:
        """(n', n, taps) for one of both directions."""
        ours, theirs, tap = torch.arange(n + 2 * pad - taps + 1), torch.arange(n), torch.arange(taps)
        return ours[:, None, None] + tap == theirs[:, None] + pad

    rows, columns = (along(*each) for each in zip(size, kernel, padding, strict=True))
    both = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]
    return both.float().reshape(-1, kernel[0] * kernel[1])
