"""Test-time view sets: which changed copies of a face a prediction is averaged over, with which weights.

Facts alone, so that suites, records and the board know names and passes without torch; ``augment`` makes the copies. A
set keeps its meaning for ever, because stored probabilities are known by its name: a changed set takes another name.
"""

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from types import MappingProxyType


@dataclass(frozen=True, order=True)
class View:
    """One copy of a 48x48 face: turned, cut to a square box, then mirrored; a network sees it at its own side.

    ``angle`` is in degrees. The box is ``trim`` pixels smaller than the face (larger where that is negative, filled
    with the nearest edge pixel) and its centre lies ``down`` and ``right`` of the face's, in pixels.
    """

    angle: float = 0.0
    trim: int = 0
    down: int = 0
    right: int = 0
    mirror: bool = False

    @property
    def upright(self) -> "View":
        """The same copy unmirrored."""
        return replace(self, mirror=False)


@dataclass(frozen=True)
class Base:
    """A view set that is no product: what it is in words, and each view with its weight."""

    text: str
    views: tuple[tuple[float, View], ...]


CORNERS = tuple((down, right) for down in (-2, 2) for right in (-2, 2))
SIDES = ((-2, 0), (2, 0), (0, -2), (0, 2))

BASES = {
    "none": Base("the image as it is", ((1, View()),)),
    "flip": Base("the image and its mirror image, 1/2 each", ((1 / 2, View()), (1 / 2, View(mirror=True)))),
    "five-crop": Base(
        "44×44 of the 48×48 pixels: the four corners and the centre, 1/5 each",
        ((1 / 5, View(trim=4)), *((1 / 5, View(trim=4, down=d, right=r)) for d, r in CORNERS)),
    ),
    "shift": Base(
        "the image, 1/2, and moved by 2 pixels up, down, left and right, 1/8 each",
        ((1 / 2, View()), *((1 / 8, View(down=d, right=r)) for d, r in SIDES)),
    ),
    "rotate": Base(
        "the image, 1/2, and turned by 5° to either side, 1/4 each",
        ((1 / 2, View()), (1 / 4, View(angle=-5)), (1 / 4, View(angle=5))),
    ),
    "multi-scale": Base(
        "the image, 1/2, its 44×44 centre and the image with 2 more pixels on every side (52×52), 1/4 each, all at the "
        "network's one side",
        ((1 / 2, View()), (1 / 4, View(trim=4)), (1 / 4, View(trim=-4))),
    ),
}
"""Crops are 44 of 48 pixels, a magnification of 1.09: within the change of size that training usually draws, unlike
the 40 of 48 (1.2) that is also found. What is moved, turned or resized in the middle counts half, as in airbench."""

TEN_CROP = ("flip", "five-crop")
"""The product that has a name of its own."""


def _product_name(factors: tuple[str, ...]) -> str:
    if set(TEN_CROP) <= set(factors):
        factors = ("ten-crop", *(factor for factor in factors if factor not in TEN_CROP))
    return "+".join(factors) or "none"


FACTORS = {
    _product_name(factors): factors
    for count in range(len(BASES))
    for factors in combinations([name for name in BASES if name != "none"], count)
}
"""Every view set -> the base sets that it is the product of, in the one order that names it."""
NAMES = tuple(FACTORS)
"""Every view set, the plain ones first."""


@functools.cache
def view_set(name: str) -> Mapping[View, float]:
    """The distinct views of a set, in a fixed order, with their weights, which sum to 1.

    A product takes each view of one set on top of each view of the other, at the product of their weights; where two
    such views are the same, it is one view with the sum of their weights.

    Raises:
        ValueError: for a set that does not exist.
    """
    found = {View(): 1.0}
    for factor in FACTORS[known(name)]:
        merged: dict[View, float] = {}
        for (view, weight), (share, change) in product(found.items(), BASES[factor].views):
            both = _on_top(view, change)
            merged[both] = merged.get(both, 0.0) + weight * share
        found = merged
    return MappingProxyType(dict(sorted(found.items())))


def _on_top(a: View, b: View) -> View:
    return View(a.angle + b.angle, a.trim + b.trim, a.down + b.down, a.right + b.right, a.mirror != b.mirror)


def passes(*names: str) -> int:
    """Forward passes an image that one set takes, or several together: one a distinct view."""
    return len(set().union(*(view_set(name) for name in names)))


def describe(name: str) -> str:
    """A set that has a name of its own in words: a base set or ten-crop."""
    if name == "ten-crop":
        return "44×44 of the 48×48 pixels: the four corners, the centre, and their mirror images, 1/10 each"
    return BASES[name].text


def known(name: str) -> str:
    """Return the name of a view set, or raise a ValueError that says how it should be written."""
    if name in FACTORS:
        return name
    parts = [part.strip() for part in re.split(r"[+*×]| x |-x-", name.lower())]
    unknown = [part for part in parts if part not in (*BASES, "ten-crop")]
    if unknown:
        raise ValueError(f"unknown view set {name!r}; {_near(unknown[0])}")
    raise ValueError(f"unknown view set {name!r}; {_rewritten(parts)}")


def _near(part: str) -> str:
    near = difflib.get_close_matches(part, [*BASES, "ten-crop"], n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(BASES)}, ten-crop and their products such as flip+rotate"


def _rewritten(parts: list[str]) -> str:
    factors = [factor for part in parts for factor in (TEN_CROP if part == "ten-crop" else (part,)) if factor != "none"]
    twice = [factor for factor in factors if factors.count(factor) > 1]
    if twice:
        where = " (ten-crop is flip+five-crop)" if "ten-crop" in parts else ""
        return f"a product takes each set once, and this has {twice[0]} twice{where}"
    return f"write {_product_name(tuple(factor for factor in BASES if factor in factors))!r}"
