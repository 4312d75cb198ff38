"""A backbone that no library has -> the names that may have been meant, in both libraries and all spellings."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from fer_bench.config import Member
from fer_bench.errors import UserError


def require_timm(name: str) -> None:
    """Raise a UserError where timm has no such backbone, or none of its weights has such a tag."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise UserError(_unknown(name))
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # timm's word for a tag that it does not know
        raise UserError(_unknown_tag(*name.split(".", 1))) from None


def require_torchvision(name: str) -> None:
    """Raise a UserError where torchvision has no classification backbone ``name``."""
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(_unknown(f"torchvision:{name}"))


def require_own(member: Member, known: Iterable[str]) -> None:
    """Raise a UserError where a member's backbone is none of ``known``, which are ours under its prefix."""
    kind, _, name = member.backbone.partition(":")
    if name not in known:
        raise UserError(
            f"backbone: unknown {member.backbone!r}; there are {either([f'{kind}:{n}' for n in known], 'and')}"
        )


def require_options(member: Member, made: Callable[..., Any]) -> None:
    """Raise a UserError where a member has an option that its network, made by ``made``, does not take."""
    takes = [key for key in inspect.signature(made).parameters if key != "side"]
    for key in member.options:
        if key not in takes:
            raise UserError(f"options.{key}: {member.backbone} takes {either(takes) if takes else 'no options'}")


def either(names: list[str], word: str = "or") -> str:
    """Join names as people do: a, b or c."""
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def quoted(names: list[str]) -> str:
    """Join names, each in quotes."""
    return either([f"'{name}'" for name in names])


def _unknown(backbone: str) -> str:
    near = _near(backbone)
    hint = (
        f"did you mean {quoted(near)}?" if near else "timm.list_models() and torchvision.models.list_models() name all"
    )
    return f"backbone: unknown '{backbone}'; {hint}"


def _near(backbone: str) -> list[str]:
    """Up to three names, one alone where only the library was mistaken; what both have is meant of the one asked."""
    import timm
    import torchvision

    from fer_bench.models.scratch import SCRATCH

    wanted = re.split("[:/]", backbone)[-1].lower()
    if timm.is_model(wanted) and not backbone.startswith("torchvision:"):
        return [wanted]
    ours = {name: name for name in timm.list_models()}
    theirs = {name: f"torchvision:{name}" for name in torchvision.models.list_models(module=torchvision.models)}
    known = ours | theirs if backbone.startswith("torchvision:") else theirs | ours
    if wanted in known:
        return [known[wanted]]
    if wanted in SCRATCH:
        return [f"scratch:{wanted}"]
    return [known[name] for name in difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)]


def _unknown_tag(architecture: str, tag: str) -> str:
    import timm

    known = {name.split(".", 1)[1]: name for name in timm.list_models(f"{architecture}.*", pretrained=True)}
    near = difflib.get_close_matches(tag, known, n=3, cutoff=0.5) or list(known)[:5]
    hint = f"did you mean {quoted([known[name] for name in near])}?" if near else f"it has none: use '{architecture}'"
    return f"backbone: {architecture} has no weights tagged '{tag}'; {hint}"
