import bz2
import struct
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fer_bench import models
from fer_bench.config import Member, Train
from fer_bench.errors import UserError
from fer_bench.models.weights import find_weights

LEVELS = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))


def member(backbone="dlib:face_recognition_resnet", **settings):
    return Member(name="m", backbone=backbone, **({"image_size": 112} | settings))


def shapes() -> list[tuple[int, int, int]]:
    """Filters, channels and kernel of the 29 convolutions."""
    found, channels = [(32, 3, 7)], 32
    for filters, blocks in LEVELS:
        for _ in range(blocks):
            found += [(filters, channels, 3), (filters, filters, 3)]
            channels = filters
    return found


def integer(value: int) -> bytes:
    """As dlib writes it: how many bytes, then these."""
    held = value.to_bytes((value.bit_length() + 7) // 8, "little")
    return bytes([len(held)]) + held


def layer(name: bytes, *values: torch.Tensor) -> bytes:
    numbers = torch.cat([value.flatten() for value in values]).tolist()
    head = b"".join(integer(n) for n in (2, len(numbers), 1, 1, 1))
    return integer(len(name)) + name + head + struct.pack(f"<{len(numbers)}f", *numbers) + b"some settings"


@pytest.fixture(scope="module")
def drawn() -> list[tuple[torch.Tensor, ...]]:
    """Filters, their biases, scales and offsets of every convolution, small and uneven like dlib's."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    return [(0.02 * normal(f, c, k, k) / c**0.5, 0.1 * normal(f), 6 + normal(f), normal(f)) for f, c, k in shapes()]


@pytest.fixture(scope="module")
def file(drawn, tmp_path_factory):
    path = tmp_path_factory.mktemp("dlib") / "network.dat"
    parts = [layer(b"con_4", w, b) + layer(b"affine_", scale, offset) for w, b, scale, offset in drawn]
    path.write_bytes(b"header" + b"".join(parts) + b"the rest")
    return path


def reference(drawn, x: torch.Tensor) -> torch.Tensor:
    """What dlib computes, in its own steps and with its own numbers: (1, 3, S, S) -> (256,)."""
    left = list(drawn)

    def convolve(x: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
        weight, bias, scale, offset = left.pop(0)
        y = F.conv2d(x, weight, bias, stride, padding)
        return y * scale[:, None, None] + offset[:, None, None]

    x = F.max_pool2d(convolve(x, 2, 0).relu(), 3, 2)
    for level, (filters, blocks) in enumerate(LEVELS):
        for block in range(blocks):
            halves = level > 0 and block == 0
            y = convolve(convolve(x, 2 if halves else 1, 0 if halves else 1).relu(), 1, 1)
            x = F.avg_pool2d(x, 2) if halves else x
            total = torch.zeros(1, filters, max(x.shape[2], y.shape[2]), max(x.shape[3], y.shape[3]))
            for part in (x, y):
                total[:, : part.shape[1], : part.shape[2], : part.shape[3]] += part
            x = total.relu()
    assert not left
    return x.mean((2, 3))[0]


@pytest.mark.parametrize("side", [103, 112, 150])
def test_features_are_those_of_the_numbers_in_the_file(drawn, file, side):
    network = models.build(member(image_size=side, weights=str(file)), find_weights(member(weights=str(file))))
    module: Any = network.module.eval()
    face = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    expected = reference(drawn, face)
    assert expected.std() > 0.1
    torch.testing.assert_close(module.features(face)[0], expected, rtol=1e-3, atol=1e-4)
    assert module.head.weight.abs().max() < 0.1
    models.probe(network, "m")


def test_filters_have_the_spread_that_training_expects(file):
    module: Any = models.build(member(weights=str(file)), find_weights(member(weights=str(file)))).module
    assert module.training
    for convolution in (module.stem, module.blocks[0].conv1, module.blocks[-1].conv2):
        usual = (2 / (convolution.out_channels * convolution.kernel_size[0] ** 2)) ** 0.5
        torch.testing.assert_close(convolution.weight.flatten(1).std(1), torch.full((convolution.out_channels,), usual))


def test_layer_decay_goes_down_by_blocks():
    network = models.build(member(), None)
    module: Any = network.module
    groups = models.parameter_groups(network, Train(layer_decay=0.9))
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    blocks = [scales[id(block.conv2.weight)] for block in module.blocks]
    assert blocks == pytest.approx([0.9 ** (14 - index) for index in range(14)])
    assert scales[id(module.head.weight)] == scales[id(module.head.bias)] == 1
    assert scales[id(module.stem.weight)] == scales[id(module.norm.bias)] == pytest.approx(0.9**15)


def test_a_compressed_file_is_the_same(file, tmp_path):
    packed = tmp_path / "network.dat.bz2.old"
    packed.write_bytes(bz2.compress(file.read_bytes(), 1))
    made = [models.build(member(weights=str(path)), find_weights(member(weights=str(path)))) for path in (file, packed)]
    first, second = (network.module.state_dict() for network in made)
    assert all(torch.equal(first[key], second[key]) for key in first if not key.startswith("head"))


def test_other_files_are_refused_in_one_line(file, tmp_path):
    data = file.read_bytes()
    first = len(b"header" + layer(b"con_4", torch.zeros(4736))) - len(b"some settings") - 4736 * 4
    wrong = {
        "cut.dat": data[: len(data) // 2],
        "empty.dat": b"",
        "other.dat": data.replace(b"con_4", b"con_9"),
        "nan.dat": data[:first] + struct.pack("<f", float("nan")) + data[first + 4 :],
        "shape.dat": data.replace(integer(4736), integer(4735), 1),
    }
    for name, content in wrong.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"weights: .*{name} is not dlib's face recognition network, or a damaged"):
            models.build(member(weights=str(path)), find_weights(member(weights=str(path))))
    broken = tmp_path / "network.dat.bz2"
    broken.write_bytes(b"BZh9 and nothing")
    with pytest.raises(UserError, match=r"weights: .*network\.dat\.bz2 cannot be read"):
        models.build(member(weights=str(broken)), find_weights(member(weights=str(broken))))


def test_small_sides_and_missing_weights_say_what_to_do(file, monkeypatch):
    small = member(image_size=96, weights=str(file))
    with pytest.raises(UserError, match="cannot take 96 px; the next larger side that it takes is 103"):
        models.check(small)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="its weights are not installed; pip install face_recognition_models"):
        find_weights(member())
    with pytest.raises(UserError, match="unknown 'dlib:face'; there are dlib:face_recognition_resnet"):
        find_weights(member(backbone="dlib:face"))
    assert find_weights(member(pretrained=False)) is None


def test_the_published_file_gives_the_numbers_that_dlib_gives():
    try:
        weights = find_weights(member())
    except UserError:
        pytest.skip("face_recognition_models is not installed")
    assert weights is not None
    network = models.build(member(image_size=150), weights)
    row, column = np.mgrid[:150, :150]
    image = np.stack([(row * 3 + column) % 256, (row * column) % 256, (row + column * 5) % 256]).astype(np.float32)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (network.mean, network.std))
    module: Any = network.module.eval()
    features = module.features(torch.from_numpy((image / 255 - mean) / std)[None])[0]
    data = weights.path.read_bytes()
    at = data.index(b"\x01\x04fc_2") + 22
    last = torch.frombuffer(bytearray(data[at : at + 4 * 256 * 128]), dtype=torch.float32).view(256, 128)
    expected = torch.tensor([-0.052049, 0.082042, 0.038233, -0.023397, -0.08184, -0.039766])  # of dlib 20.0.1
    torch.testing.assert_close((features @ last)[:6], expected, rtol=0, atol=1e-5)
