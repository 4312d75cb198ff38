import dataclasses
import math

import numpy as np
import pytest
import torch

from fer_bench import predict
from fer_bench.config import Member
from fer_bench.models import build
from fer_bench.views import NAMES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build(Member(name="m", backbone="resnet10t", pretrained=False, image_size=64), None)


def images(n=5):
    return np.random.default_rng(0).integers(0, 256, (n, 48, 48)).astype(np.uint8)


def by_hand(network, faces):
    x = torch.from_numpy(faces).float().unsqueeze(1) / 255
    x = torch.nn.functional.interpolate(x, size=64, mode="bilinear").repeat(1, 3, 1, 1)
    x = (x - torch.tensor(network.mean).view(3, 1, 1)) / torch.tensor(network.std).view(3, 1, 1)
    with torch.no_grad():
        return network.module.eval()(x).softmax(1).numpy()


def test_probabilities_equal_the_usual_way(network):
    p = predict.probabilities(network, images(), device=CPU)
    assert p.dtype == np.float32
    assert np.allclose(p, by_hand(network, images()), atol=1e-5)


def test_flip_is_the_mean_over_the_image_and_its_mirror(network):
    p = predict.probabilities(network, images(), "flip", device=CPU)
    mirrored = np.ascontiguousarray(images()[:, :, ::-1])
    assert np.allclose(p, (by_hand(network, images()) + by_hand(network, mirrored)) / 2, atol=1e-5)


def test_ten_crop_is_the_mean_over_the_crops_of_torchvision(network):
    from torchvision.transforms.functional import ten_crop

    crops = [crop.numpy() for crop in ten_crop(torch.from_numpy(images(3)), [44, 44])]
    p = predict.probabilities(network, images(3), "ten-crop", device=CPU)
    assert np.allclose(p, np.mean([by_hand(network, np.ascontiguousarray(crop)) for crop in crops], axis=0), atol=1e-5)


def test_turned_faces_of_a_network_that_samples_once_are_turned_at_its_side(network):
    """Half the face, a quarter each turn; pixels of the turned ones come from the face itself, bicubic, once."""
    once = dataclasses.replace(network, sampling="once")
    gray = torch.from_numpy(images()).float().unsqueeze(1) / 255
    expected = torch.zeros(5, 7)
    for angle, share in ((0.0, 0.5), (-5.0, 0.25), (5.0, 0.25)):
        turn = math.radians(angle)
        matrix = torch.tensor([[math.cos(turn), -math.sin(turn), 0.0], [math.sin(turn), math.cos(turn), 0.0]])
        grid = torch.nn.functional.affine_grid(matrix.expand(5, 2, 3), [5, 1, 64, 64], align_corners=False)
        x = torch.nn.functional.grid_sample(gray, grid, mode="bicubic", padding_mode="border", align_corners=False)
        x = x.clamp(0, 1).repeat(1, 3, 1, 1)
        x = (x - torch.tensor(network.mean).view(3, 1, 1)) / torch.tensor(network.std).view(3, 1, 1)
        with torch.no_grad():
            expected += share * network.module.eval()(x).softmax(1)
    found = predict.probabilities(once, images(), "rotate", device=CPU)
    assert np.allclose(found, expected, atol=1e-5)
    assert not np.allclose(found, predict.probabilities(network, images(), "rotate", device=CPU), atol=1e-4)


def test_turned_faces_are_the_same_in_half_precision(network):
    """What the network is given, not what it makes of it: a place rounded to bf16 is off by tenths of a pixel."""
    once, seen = dataclasses.replace(network, side=224, sampling="once"), []
    hook = network.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].float()))
    for precision in ("fp32", "bf16"):
        predict.probabilities(once, images(2), "rotate", device=CPU, precision=precision)
    hook.remove()
    assert len(seen) == 6
    for full, half in zip(seen[:3], seen[3:], strict=True):
        assert torch.allclose(full, half, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("side", [40, 48])
def test_every_view_fits_a_network_of_one_side(side, precision):
    mlp = build(Member(name="m", backbone="baseline:mlp", pretrained=False, image_size=side), None)
    found = predict.by_view_set(mlp, images(2), NAMES[:9], device=CPU, precision=precision)
    assert tuple(found) == NAMES[:9]
    assert all(p.shape == (2, 7) and np.allclose(p.sum(1), 1, atol=1e-5) for p in found.values())


def test_sets_share_their_views_and_change_no_bit_of_each_other(network):
    calls = []

    class Counting(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return network.module(x)

    counting = dataclasses.replace(network, module=Counting().eval())
    names = ["none", "flip+rotate", "multi-scale", "flip"]
    together = predict.by_view_set(counting, images(2), names, device=CPU)
    assert calls == [2] * 8  # six turned and mirrored images, among them two sets whole, and two more sizes
    for name in names:
        assert np.array_equal(together[name], predict.probabilities(network, images(2), name, device=CPU))


def test_batches_and_small_memory_do_not_matter(network, monkeypatch):
    expected = predict.probabilities(network, images(9), device=CPU)
    monkeypatch.setattr(predict, "BATCH", 4)
    assert np.allclose(predict.probabilities(network, images(9), device=CPU), expected, atol=1e-6)

    class Small(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            if len(x) > 1:
                raise torch.OutOfMemoryError("too large")
            return self.inner(x)

    small = dataclasses.replace(network, module=Small(network.module))
    assert np.allclose(predict.probabilities(small, images(9), device=CPU), expected, atol=1e-6)


def test_mode_of_the_module_is_kept(network):
    network.module.train()
    predict.probabilities(network, images(2), device=CPU)
    assert network.module.training


def test_no_images(network):
    assert predict.probabilities(network, images(0), device=CPU).shape == (0, 7)
