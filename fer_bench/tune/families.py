"""Backbone -> its family's default setting, what a study of it searches, and settings that are known to be good.

Every range holds the default setting, wherever the user moves it. Learning rate and weight decay have one range for
each optimizer. The defaults are those of ``suites/full.yaml``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fer_bench.config import Member, merge
from fer_bench.tune.space import STRENGTH, Dimension, Scalar, Space, Values, checked, checked_member, fitting

FINE_TUNED: dict[str, Any] = {
    "image_size": 128,
    "sampling": "once",
    "train": {
        "epochs": 20,
        "batch_size": 128,
        "optimizer": "adamw",
        "lr": 5e-4,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup": 0.1,
        "label_smoothing": 0.1,
        "ema": 0.998,
        "clip_grad": 5.0,
    },
    "augment": {
        "flip": 0.5,
        "shift": 0.08,
        "rotate": 15.0,
        "scale": 0.1,
        "brightness": 0.15,
        "contrast": 0.2,
        "erase": 0.2,
    },
}
FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "baseline": (r"^baseline:", {"image_size": 48, "pretrained": False, "train": {"lr": 1e-3, "batch_size": 64}}),
    "scratch": (
        r"^scratch:",
        {
            "image_size": 48,
            "pretrained": False,
            "train": {"epochs": 40, "optimizer": "sgd", "lr": 0.03, "weight_decay": 5e-4},
        },
    ),
    "convnext": (
        r"convnext|nextvit|focalnet|poolformer|caformer|convformer|mambaout",
        {"train": {"layer_decay": 0.9}},
    ),
    "transformer": (
        r"vit|deit|swin|beit|\beva|cait|xcit|coat|pvt|twins|hiera|former|volo|tnt|aimv|sequencer"
        r"|\b(mixer|gmixer|resmlp|gmlp|nest|pit)_",
        {"image_size": 224, "train": {"lr": 3e-4, "layer_decay": 0.75}},
    ),
    "efficient": (
        r"efficientnet|mobilenet|mnasnet|fbnet|ghostnet|lcnet|tinynet|mixnet|spnasnet|shufflenet|squeezenet",
        {"train": {"lr": 1e-3}},
    ),
    "plain": (r"vgg|alexnet", {"train": {"lr": 2e-4}}),
    "residual": (r"", {}),
}
"""Family -> which backbones belong to it (the first that fits), and what differs from the common setting."""
DROP_RATES = {"drop_rate": 0.5, "drop_path_rate": 0.3}
"""Constructor arguments that switch a share of the network off in training, and the most that is searched."""
START_RATES = {"drop_rate": 0.2, "drop_path_rate": 0.1}
"""Where a search starts, for a backbone whose head or blocks are made for it; 0 elsewhere."""
SIZED = ("scratch", "residual", "efficient", "convnext", "plain")
"""Families that take images of any size; the others are built for one."""


RANGES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "lr": {"adamw": (1e-4, 5e-3), "adam": (1e-4, 5e-3), "sgd": (5e-3, 0.2)},
    "weight_decay": {"adamw": (1e-3, 0.3), "adam": (1e-6, 1e-2), "sgd": (1e-5, 1e-2)},
}
SGD: Values = {"train.optimizer": "sgd", "train.lr": 0.03, "train.weight_decay": 5e-4}
"""The usual setting for fine-tuning with SGD and a momentum of 0.9."""
LITE: Values = {"train.lr": 2e-3, "train.schedule": "onecycle", "train.warmup": 0.25}
"""What differs in ``lite0-96`` of ``suites/cpu.yaml``, a measured row of the board."""


def default_space(backbone: str, supported: frozenset[str], changes: Mapping[str, Any] | None = None) -> Space:
    """What a study of a backbone searches; ``supported`` are the drop rates that it takes, ``changes`` of its default.

    Raises:
        UserError: changes that no member can have.
    """
    family = family_of(backbone)
    member = _member(backbone, family, supported, changes or {})
    dimensions = _dimensions(member, family)
    known = [SGD] if family not in ("baseline", "scratch") else []
    known += [LITE] if family == "efficient" else []
    space = Space(member, dimensions)
    return checked(replace(space, known=fitting(space, known)))


def family_of(backbone: str) -> str:
    """The family that a backbone's name puts it in."""
    return next(family for family, (pattern, _) in FAMILIES.items() if re.search(pattern, backbone))


def _member(backbone: str, family: str, supported: frozenset[str], changes: Mapping[str, Any]) -> Member:
    start = START_RATES if family in ("efficient", "convnext", "transformer") else {}
    options = {rate: start.get(rate, 0.0) for rate in DROP_RATES if rate in supported}
    own = merge(merge(FINE_TUNED, FAMILIES[family][1]), {"name": "default", "backbone": backbone, "options": options})
    if backbone.startswith("torchvision:"):  # timm does not know their layers
        own = merge(own, {"train": {"layer_decay": 1.0}})
    return checked_member(merge(own, dict(changes)))


def _dimensions(member: Member, family: str) -> dict[str, tuple[Dimension, ...]]:
    train = member.train
    found = {
        "train.batch_size": _choices({max(2, train.batch_size // 2), train.batch_size, 2 * train.batch_size}),
        "train.optimizer": _choices({"adamw", "sgd", train.optimizer}),
        "train.lr": _by_optimizer(member, "lr"),
        "train.weight_decay": _by_optimizer(member, "weight_decay"),
        "train.schedule": _choices({"cosine", "onecycle", train.schedule}),
        "train.warmup": _range(0.0, 0.4, train.warmup),
        "train.label_smoothing": _range(0.0, 0.2, train.label_smoothing),
        "train.mixup": _choices({0.0, 0.1, 0.2, 0.4, train.mixup}),
        "train.ema": _choices({0.0, 0.99, 0.995, 0.998, 0.9995, train.ema}),
        STRENGTH: _range(0.0, 2.0, 1.0),
    }
    if train.weight_decay == 0:
        del found["train.weight_decay"]
    if family in SIZED:
        found["image_size"] = _choices(_sides(member.image_size))
    if member.pretrained and not member.backbone.startswith("torchvision:"):
        found["train.layer_decay"] = _range(0.6, 1.0, train.layer_decay)
    for rate, most in DROP_RATES.items():
        if rate in member.options:
            found[f"options.{rate}"] = _range(0.0, most, float(member.options[rate]))
    return found


def _choices(values: Iterable[Scalar]) -> tuple[Dimension, ...]:
    return (Dimension(choices=tuple(sorted(values))),)


def _range(low: float, high: float, start: float) -> tuple[Dimension, ...]:
    return (Dimension(low=min(low, start), high=max(high, start)),)


def _by_optimizer(member: Member, key: str) -> tuple[Dimension, ...]:
    """A range on a log scale for each optimizer, that of the default setting stretched around its value."""
    own, start = member.train.optimizer, getattr(member.train, key)
    ranges = {name: RANGES[key][name] for name in dict.fromkeys(["adamw", "sgd", own])}
    low, high = ranges[own]
    ranges[own] = min(low, start / 2), max(high, start * 2)
    return tuple(
        Dimension(low=low, high=high, log=True, when={"train.optimizer": name})
        for name, (low, high) in ranges.items()
        if low > 0
    )


def _sides(side: int) -> set[int]:
    """A side and its neighbours a quarter away, as multiples of 16 px."""
    return {max(32, 16 * round(side * share / 16)) for share in (0.75, 1.25)} | {side}
