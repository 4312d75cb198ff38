import dataclasses

import numpy as np
import pytest
import torch

from fer_bench import predict
from fer_bench.config import Member
from fer_bench.models import build

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build(Member(name="m", backbone="resnet10t", pretrained=False, image_size=64), None)


def images(n=5):
    return np.random.default_rng(0).integers(0, 256, (n, 48, 48)).astype(np.uint8)


def by_hand(network, faces):
    x = torch.from_numpy(faces).float().view(-1, 1, 48, 48) / 255
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
