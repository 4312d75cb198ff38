"""Name -> network, with its initial weights where it has any."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.models.baselines import baseline
from fer_bench.models.dlib import dlib
from fer_bench.models.names import require_timm, require_torchvision
from fer_bench.models.network import CLASSES, Network
from fer_bench.models.scratch import scratch
from fer_bench.models.tensors import in_words, misfit, read
from fer_bench.models.weights import Weights

HALVED = {"googlenet", "inception_v3"}
"""torchvision networks whose weights expect inputs in [-1, 1]; the rest expect the ImageNet mean and deviation."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class UnfitError(UserError):
    """A network fails at its side or with its options; another side may do."""


def build(member: Member, weights: Weights | None) -> Network:
    """Make a member's network with a new head for seven classes, near zero where the rest is pretrained.

    The head, and all of a network from scratch, are drawn from torch's global generator, which the libraries force;
    the caller seeds it.

    Raises:
        UserError: for an unknown backbone (with near names), unknown options, or weights that do not fit.
    """
    kind = member.backbone.split(":")[0]
    ours = {"baseline": baseline, "scratch": scratch}
    make = {"torchvision": _torchvision, "dlib": dlib}.get(kind, _timm)
    try:
        network = ours[kind](member) if kind in ours else make(member, weights)
    except UserError:
        raise
    except Exception as error:  # every library has its own way to refuse an option
        what = f"options: {member.backbone} does not take {dict(member.options)}"
        if not member.options:
            what = f"image_size: {member.backbone} cannot be built for {member.image_size} px images"
        raise UnfitError(f"{what} ({in_words(error)})") from error
    if weights is not None:
        _calm_head(network.module)
    return replace(network, sampling=member.sampling)


def _calm_head(module: nn.Module) -> None:
    """Draw the new head near zero: some libraries draw it so wide that the first steps wreck the pretrained rest."""
    heads = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[0] == CLASSES]
    nn.init.normal_(heads[-1].weight, std=0.01)
    if heads[-1].bias is not None:
        nn.init.zeros_(heads[-1].bias)


def _timm(member: Member, weights: Weights | None) -> Network:
    import timm

    name = member.backbone
    require_timm(name)
    config = timm.models.get_pretrained_cfg(name)
    options: dict[str, Any] = dict(member.options)
    if config is not None and config.fixed_input_size:
        options["img_size"] = member.image_size
    packaged = weights is not None and weights.origin.startswith("package ")
    if weights is None or packaged:
        module = timm.create_model(name, num_classes=CLASSES, **options)
    else:
        module = _timm_from_file(name, weights, options)
    if packaged:
        assert weights is not None
        _load_in_order(module, weights)
    data = timm.data.resolve_model_data_config(module)
    return Network(module, member.image_size, 3, tuple(data["mean"]), tuple(data["std"]))


def _timm_from_file(name: str, weights: Weights, options: dict[str, Any]) -> nn.Module:
    """Build twice from one seed, with and without the file, since timm skips what does not fit without a word."""
    import timm

    theirs = read(weights.path)
    before = _from_one_seed(lambda: timm.create_model(name, num_classes=CLASSES, **options)).state_dict()
    loads: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights.path)}}
    try:
        built = _from_one_seed(lambda: timm.create_model(name, num_classes=CLASSES, **loads, **options))
    except Exception as error:  # tensors that do not fit fail in any part of the loaders
        why = misfit(before, theirs) or in_words(error)
        raise UserError(f"weights: {weights.path} does not fit {name}: {why}") from error
    matrices = {key: value for key, value in built.state_dict().items() if value.ndim > 1}
    same = [key for key, value in matrices.items() if torch.equal(before[key], value)]
    if len(same) > len(matrices) / 2:
        why = misfit(before, theirs) or f"{len(same)} of its tensors stayed as they were, first {same[0]}"
        raise UserError(f"weights: {weights.path} does not fit {name}: {why}")
    return built


def _from_one_seed(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def _load_in_order(module: nn.Module, weights: Weights) -> None:
    """Copy a package's tensors, which stand in timm's order under other names, all but the head's two."""
    own, theirs = module.state_dict(), list(read(weights.path).values())
    if len(own) != len(theirs):
        raise UserError(f"{weights.origin}: holds {len(theirs)} tensors, the network {len(own)}; another version?")
    for name, tensor in list(zip(own, theirs, strict=True))[:-2]:
        if own[name].shape != tensor.shape:
            raise UserError(
                f"{weights.origin}: tensor {name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
            )
        own[name].copy_(tensor)


def _torchvision(member: Member, weights: Weights | None) -> Network:
    import torchvision

    name = member.backbone.removeprefix("torchvision:")
    require_torchvision(name)
    options: dict[str, Any] = dict(member.options)
    if name in HALVED:
        options = {"aux_logits": False, "init_weights": weights is None} | options
    takes = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    if "image_size" in takes or name.startswith("vit_"):
        options["image_size"] = member.image_size
    module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
    if weights is not None:
        _load_fitting(module, weights, name)
    mean, std = ((0.5,) * 3, (0.5,) * 3) if name in HALVED else IMAGENET
    return Network(module, member.image_size, 3, mean, std)


def _load_fitting(module: nn.Module, weights: Weights, name: str) -> None:
    """Load every tensor but the head's, whose shape differs; anything else that is missing is an error."""
    own, theirs = module.state_dict(), read(weights.path)
    fitting = {key: value for key, value in theirs.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in own if key not in fitting and not (key in theirs and own[key].shape[0] == CLASSES)]
    if missing:
        raise UserError(f"weights: {weights.path} does not fit {name}: {misfit(own, theirs)}")
    module.load_state_dict(fitting, strict=False)
