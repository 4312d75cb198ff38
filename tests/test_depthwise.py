import copy

import pytest
import timm
import torch
from torch import nn

from fer_bench.models.depthwise import DepthwiseConv2d, use_products
from fer_bench.models.network import place


def both(
    side: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int], bias: bool = False
) -> tuple[nn.Module, nn.Conv2d, torch.Tensor]:
    """A depthwise convolution, its copy with products, and an input."""
    torch.manual_seed(0)
    usual = nn.Conv2d(6, 6, kernel, padding=padding, groups=6, bias=bias).double()
    ours = copy.deepcopy(usual)
    use_products(ours)
    x = torch.randn(5, 6, *side, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    return usual, ours, x


def way(result: torch.Tensor) -> str:
    """What autograd will call first for its gradient."""
    assert result.grad_fn is not None
    return result.grad_fn.name()


def passed(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The result, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize(
    ("side", "kernel", "padding", "bias"),
    [
        ((4, 4), (5, 5), (2, 2), False),
        ((1, 1), (3, 3), (1, 1), False),
        ((6, 6), (7, 7), (3, 3), True),
        ((2, 3), (5, 3), (2, 1), True),
        ((4, 4), (5, 5), (1, 1), False),
        ((3, 3), (5, 5), (4, 3), False),
    ],
)
def test_gradients_are_those_of_the_usual_convolution(side, kernel, padding, bias):
    usual, ours, x = both(side, kernel, padding, bias)
    assert way(ours(x)) in {"_ConvolutionBackward", "AddBackward0"}  # the second adds the bias
    for expected, found in zip(passed(usual, x), passed(ours, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_what_is_no_batch_of_images_stays_as_it_is():
    usual, ours, x = both((4, 4), (5, 5), (2, 2))
    assert way(ours(x[0])) != "_ConvolutionBackward"
    torch.testing.assert_close(passed(ours, x[0])[2], passed(usual, x[0])[2])
    half = copy.deepcopy(ours).bfloat16()
    assert way(half(x.bfloat16())) == "ConvolutionBackward0"


def test_frozen_filters_and_constant_inputs_get_no_gradient():
    usual, ours, x = both((4, 4), (5, 5), (2, 2))
    ours(x).sum().backward()
    usual(x).sum().backward()
    torch.testing.assert_close(ours.weight.grad, usual.weight.grad)
    ours.weight.requires_grad_(False)
    inner = x.clone().requires_grad_()
    y = ours(inner)
    y.sum().backward()
    assert way(y) == "ConvolutionBackward0"
    assert inner.grad is not None


def test_wide_maps_and_other_convolutions_stay_as_they_are():
    _, ours, x = both((5, 5), (5, 5), (2, 2))
    assert isinstance(ours, DepthwiseConv2d)
    assert way(ours(x)) == "ConvolutionBackward0"
    layers = nn.Sequential(
        nn.Conv2d(6, 6, 5, groups=3),
        nn.Conv2d(6, 12, 5, groups=6),
        nn.Conv2d(6, 6, 5, stride=2, groups=6),
        nn.Conv2d(6, 6, 5, groups=6, dilation=2),
        nn.Conv2d(6, 6, 5, groups=6, padding="same"),
        nn.Conv2d(6, 6, 5, groups=6, padding=2, padding_mode="reflect"),
        nn.Conv2d(1, 1, 5),
    )
    use_products(layers)
    assert {type(layer) for layer in layers} == {nn.Conv2d}


def test_a_network_on_a_cpu_trains_to_the_same_gradients_and_keeps_its_state():
    torch.manual_seed(0)
    usual = timm.create_model("tf_efficientnet_lite0", num_classes=7).to(memory_format=torch.channels_last)
    ours = place(copy.deepcopy(usual), torch.device("cpu"))
    assert sum(isinstance(layer, DepthwiseConv2d) for layer in ours.modules()) == 12
    assert list(ours.state_dict()) == list(usual.state_dict())
    x = torch.randn(8, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    for module in (usual, ours):
        module.train()
        nn.functional.cross_entropy(module(x), torch.arange(8) % 7).backward()
    expected, found = ({n: torch.as_tensor(p.grad) for n, p in m.named_parameters()} for m in (usual, ours))
    for name, gradient in expected.items():
        distance = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert distance < 1e-3, name
    again = copy.deepcopy(ours)
    torch.testing.assert_close(again(x).detach(), ours(x).detach(), rtol=1e-4, atol=1e-4)
