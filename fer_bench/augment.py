"""Batch in, batch out: per-sample random changes of training images, and the fixed copies of test images.

Everything works on gray images (B, 1, S, S) in [0, 1]. They are changed at their native side and resized afterwards,
which is cheap and interpolates twice, or with ``side`` sampled straight at that of the network. Each random function
takes its generator; nothing here touches a global one. What is drawn for a batch is worked out beside the generator,
which is on the CPU, and goes to a GPU in one copy: small steps cost more to launch there than to do.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_bench.config import Augment
from fer_bench.views import View


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw ``n`` numbers from [low, high) on the generator's device; (n,)."""
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)


def augment(x: Tensor, how: Augment, generator: torch.Generator, side: int | None = None) -> Tensor:
    """Change each image of ``x`` (B, 1, S, S) by its own draw; brightness, contrast and erasing come after the warp.

    With ``side`` the warp samples them straight at it, (B, 1, side, side); where it only mirrors they keep their own.
    """
    x = warp(x, how, generator, side)
    if how.brightness or how.contrast:
        x = shade(x, how.brightness, how.contrast, generator)
    return erase(x, how.erase, generator) if how.erase else x


def warp(x: Tensor, how: Augment, generator: torch.Generator, side: int | None = None) -> Tensor:
    """Mirror, rotate, scale and shift each image at once, outside filled with the nearest edge pixel.

    Args:
        x: (B, 1, S, S).
        how: ``flip`` a probability, ``rotate`` in degrees, ``scale`` and ``shift`` as fractions.
        generator: the source of the draws.
        side: what the images are sampled at, bicubic; None: their own side, bilinear.
    """
    n, device = len(x), x.device
    is_mirrored = uniform(n, 0, 1, generator) < how.flip
    if not (how.shift or how.rotate or how.scale):
        return torch.where(is_mirrored.view(-1, 1, 1, 1).to(device, non_blocking=True), x.flip(-1), x)
    sign = torch.where(is_mirrored, -1.0, 1.0)
    angle = uniform(n, -how.rotate, how.rotate, generator) * (math.pi / 180)
    zoom = 1 / (1 + uniform(n, -how.scale, how.scale, generator))
    shift = 2 * torch.stack([uniform(n, -how.shift, how.shift, generator) for _ in range(2)], dim=1)
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    rows = torch.stack([sign * cos, -sign * sin, sin, cos], dim=1).view(n, 2, 2)
    matrix = torch.cat([rows, shift.unsqueeze(2)], dim=2)  # (B, 2, 3)
    return _sample(x, matrix.to(device, non_blocking=True), side)


def _sample(x: Tensor, matrix: Tensor, side: int | None) -> Tensor:
    """Look up (B, C, S, S) where each matrix (B, 2, 3) says, as ``F.affine_grid`` reads it: (B, C, side, side).

    Never in half precision, in which places would be off by tenths of a pixel.
    """
    size = [*x.shape[:2], *(x.shape[2:] if side is None else (side, side))]
    mode = "bilinear" if side is None else "bicubic"
    with torch.autocast(x.device.type, enabled=False):
        grid = F.affine_grid(matrix, size, align_corners=False)
        found = F.grid_sample(x, grid, mode=mode, padding_mode="border", align_corners=False)
    return found if side is None else found.clamp(0, 1)  # bicubic overshoots at edges


def shade(x: Tensor, brightness: float, contrast: float, generator: torch.Generator) -> Tensor:
    """Scale each image about its own mean by 1 +- ``contrast``, add +- ``brightness``, clip to [0, 1]."""
    n = len(x)
    drawn = torch.stack(
        [1 + uniform(n, -contrast, contrast, generator), uniform(n, -brightness, brightness, generator)]
    )
    factor, offset = drawn.view(2, n, 1, 1, 1).to(x.device, non_blocking=True)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return ((x - mean) * factor + mean + offset).clamp(0, 1)


def erase(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Fill one rectangle of each chosen image with that image's mean (random erasing, arXiv 1708.04896).

    Its area is 2 to 25 % of the image, its height to width ratio 0.3 to 3.3.
    """
    n, side = len(x), x.shape[-1]
    area = uniform(n, 0.02, 0.25, generator)
    ratio = torch.exp(uniform(n, math.log(0.3), math.log(3.3), generator))
    chosen = uniform(n, 0, 1, generator) < probability
    spans = [
        _span(size.clamp(max=1), uniform(n, 0, 1, generator), side) & chosen.unsqueeze(1)
        for size in (torch.sqrt(area * ratio), torch.sqrt(area / ratio))
    ]
    rows, columns = torch.stack(spans).to(x.device, non_blocking=True)  # (B, S) each
    mask = rows.unsqueeze(2) & columns.unsqueeze(1)  # (B, S, S)
    return torch.where(mask.unsqueeze(1), x.mean(dim=(1, 2, 3), keepdim=True), x)


def _span(length: Tensor, place: Tensor, side: int) -> Tensor:
    """Pixels whose centre lies in [start, start + length), where start = place * (1 - length); (B, side) bool."""
    start = (place * (1 - length)).unsqueeze(1)
    centre = (torch.arange(side, device=length.device) + 0.5) / side
    return (centre >= start) & (centre < start + length.unsqueeze(1))


def mix(x: Tensor, target: Tensor, mixup: float, cutmix: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix each image with another one of the batch (mixup, arXiv 1710.09412; CutMix, arXiv 1905.04899).

    Args:
        x: (B, C, S, S).
        target: class shares (B, K).
        mixup: alpha of Beta(alpha, alpha) for the mixing share, 0 is off.
        cutmix: the same for pasting a rectangle; with both on, each batch uses either at even odds.
        generator: the source of the draws.
    """
    partner = torch.randperm(len(x), generator=generator, device=generator.device).to(x.device, non_blocking=True)
    use_cutmix = cutmix > 0 and (mixup == 0 or _number(generator) < 0.5)
    share = _beta(cutmix if use_cutmix else mixup, generator)
    if not use_cutmix:
        mixed = share * x + (1 - share) * x[partner]
    else:
        top, bottom, left, right = _rectangle(x.shape[-1], 1 - share, generator)
        mixed = x.clone()
        mixed[:, :, top:bottom, left:right] = x[partner, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / x.shape[-1] ** 2
    return mixed, share * target + (1 - share) * target[partner]


def _rectangle(side: int, area: float, generator: torch.Generator) -> tuple[int, int, int, int]:
    """A square of ``area`` (a share of the image) about a random centre, cut off at the edges, in pixels."""
    half = side * math.sqrt(area) / 2
    edges = []
    for _ in range(2):
        centre = _number(generator) * side
        edges += [max(0, round(centre - half)), min(side, round(centre + half))]
    return edges[0], edges[1], edges[2], edges[3]


def _number(generator: torch.Generator) -> float:
    """One number from [0, 1); needs a generator on the CPU, so that nothing waits for a device."""
    return float(torch.rand((), generator=generator, device=generator.device))


def _beta(alpha: float, generator: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha), as the ratio of two Gamma draws."""
    shape = torch.full((2,), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator).tolist()
    return first / (first + second) if first + second > 0 else 0.5


def copy_of(x: Tensor, view: View, side: int | None = None) -> Tensor:
    """The copy of each image (B, 1, S, S) that a view asks for, but for its mirroring; all images change alike.

    It has the pixels of the cut, (B, 1, S - trim, S - trim); with ``side`` a turned one is sampled straight at that,
    (B, 1, side, side). Mirroring is left to who resizes: a copy and its mirror image share one resized tensor.
    """
    if not view.angle:
        return box(x, view.trim, view.down, view.right)
    if side is None:
        return box(turn(x, view.angle), view.trim, view.down, view.right)
    whole, kept = x.shape[-1], x.shape[-1] - view.trim
    middle = [2 * (view.trim // 2 + moved + kept / 2) / whole - 1 for moved in (view.right, view.down)]
    return turn(x, view.angle, side, kept / whole, (middle[0], middle[1]))


def turn(
    x: Tensor, degrees: float, side: int | None = None, zoom: float = 1, middle: tuple[float, float] = (0, 0)
) -> Tensor:
    """Rotate images about their centre, outside filled with the nearest edge pixel; the result (B, 1, side, side).

    The batch takes the place of channels, so that one grid serves all of it.

    Args:
        x: (B, 1, S, S).
        degrees: of the rotation.
        side: what they are sampled at, bicubic; None: their own side, bilinear.
        zoom: how much of the rotated image is kept, a square, as a share of its side.
        middle: where the centre of that square lies, right and down of the image's, in half sides.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    right, down = middle
    rows = [[zoom * cos, -zoom * sin, cos * right - sin * down], [zoom * sin, zoom * cos, sin * right + cos * down]]
    return _sample(x.transpose(0, 1), torch.tensor([rows], device=x.device), side).transpose(0, 1)


def box(x: Tensor, trim: int, down: int, right: int) -> Tensor:
    """Cut a square that is ``trim`` pixels smaller than the images; outside them it has their nearest edge pixel."""
    side = x.shape[-1] - trim
    top, left = trim // 2 + down, trim // 2 + right
    outside = [max(0, -left), max(0, left - trim), max(0, -top), max(0, top - trim)]
    if any(outside):
        x = F.pad(x, outside, mode="replicate")
    top, left = max(0, top), max(0, left)
    return x[..., top : top + side, left : left + side]
