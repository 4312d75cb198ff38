"""One image through a network before any training starts."""

from dataclasses import replace

import torch
from torch import Tensor

from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.models.building import UnfitError, build
from fer_bench.models.network import CLASSES, Network
from fer_bench.models.tensors import in_words

SIDES = (64, 96, 128, 192, 256, 384)
"""Where a legal side is looked for."""


def check(member: Member) -> None:
    """Build a member's network from scratch and probe it.

    Raises:
        UserError: one line with the key of the member that is wrong, and for a side that does not do one that does.
    """
    try:
        network = build(member, None)
        probe(network, member.backbone)
        _check_growth(member)
    except UnfitError as error:
        side = _next_side(member)
        if side is None:
            raise
        what = f"image_size: {member.backbone} cannot take {member.image_size} px"
        raise UserError(f"{what}; the next larger side that it takes is {side}") from error
    if member.train.layer_decay < 1 and not hasattr(network.module, "group_matcher"):
        raise UserError(f"train.layer_decay: timm does not know the layers of {member.backbone}; use 1")


def _check_growth(member: Member) -> None:
    """Probe the smaller sides that images have in earlier epochs: a network may take the first of them and no other."""
    if member.sides == (member.image_size,):
        return
    network = build(member, None)
    for side in member.sides[:-1]:
        try:
            probe(replace(network, side=side), member.backbone)
        except UnfitError as error:
            made = f"{member.backbone} made for {member.image_size} px"
            why = f"{made} fails on {side} px, to which images grow"
            raise UserError(f"train.start_size: {why}; use 1") from error


def _next_side(member: Member) -> int | None:
    """Find a larger side that a network takes while it fails at one less; None where the side is not to blame."""
    fails = member.image_size
    nearest = [multiple * (fails // multiple + 1) for multiple in (8, 32)]
    works = next((side for side in (*nearest, *SIDES) if side > fails and _takes(member, side)), None)
    while works is not None and works - fails > 1:
        middle = (fails + works) // 2
        fails, works = (fails, middle) if _takes(member, middle) else (middle, works)
    return works


def _takes(member: Member, side: int) -> bool:
    try:
        probe(build(member.model_copy(update={"image_size": side}), None), member.backbone)
    except UserError:
        return False
    return True


def probe(network: Network, backbone: str) -> None:
    """Run one image through the network as in scoring, and two as in training, before any training starts.

    The network is spent by this: its running statistics have moved.

    Raises:
        UserError: when the network fails at this side, or does not give seven numbers.
    """
    was_training = network.module.training
    try:
        scored, trained = _outputs(network)
    except Exception as error:  # any failure inside a network means the same: it cannot take this side
        what = f"image_size: {backbone} fails on a {network.side} px image"
        raise UnfitError(f"{what} ({in_words(error)}); try a larger one or other options") from error
    finally:
        network.module.train(was_training)
    if not isinstance(trained, Tensor):
        raise UserError(f"options: {backbone} gives {type(trained).__name__} in training, not one tensor of logits")
    if tuple(scored.shape) != (1, CLASSES):
        found = tuple(scored.shape)
        raise UserError(f"backbone: {backbone} gives an output of shape {found} for one image, expected (1, {CLASSES})")


def _outputs(network: Network) -> tuple[Tensor, object]:
    """Return the logits of one image in scoring, and what two give in training."""
    with torch.no_grad():
        blank = torch.zeros(2, network.channels, network.side, network.side)
        return network.module.eval()(blank[:1]), network.module.train()(blank)
