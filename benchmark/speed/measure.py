"""Seconds, side by side: blocks of work in turns, so that whatever else the machine does falls on all of them alike."""

import itertools
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fer_bench.suite.environment import processor, software

LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pandas", "pillow", "scikit-learn")
Work = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """What all parts of a measurement share; ``is_quick`` cuts every size to what shows that the code runs."""

    device: torch.device
    repeats: int = 5
    is_quick: bool = False
    data: Path | None = None
    """FER2013; a quick run does without."""
    sides: tuple[int, ...] = (48, 96, 112, 224)
    backbones: tuple[str, ...] = ("resnet18", "tf_efficientnet_lite0")

    @property
    def block_seconds(self) -> float:
        """How long one block of a repeat should take."""
        if self.is_quick:
            return 0.0
        return 3.0 if self.device.type == "cpu" else 1.0


class SkippedError(Exception):
    """A part cannot be measured with what was given; says why."""


@dataclass(frozen=True)
class Row:
    """One ratio: ``sides`` by repeat in ``unit``, ``top`` over ``bottom`` of them, and the aim."""

    name: str
    sides: dict[str, list[float]]
    top: str
    bottom: str
    aim: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    unit: str = "seconds"

    @property
    def ratios(self) -> list[float]:
        """The ratio of each repeat."""
        return [a / b for a, b in zip(self.sides[self.top], self.sides[self.bottom], strict=True)]

    def as_json(self) -> dict[str, Any]:
        """The row as it is kept."""
        kept = {side: [float(f"{value:.5g}") for value in values] for side, values in self.sides.items()}
        ratio = {"of": f"{self.top} / {self.bottom}", **spread(self.ratios)}
        return {"name": self.name, "ratio": ratio, "aim": self.aim, "facts": self.facts, self.unit: kept}


@dataclass(frozen=True)
class Figure:
    """One figure that is no ratio: its ``values`` by seed in ``unit``, and in words what it is ``of``.

    A value is None where a seed did not come to it; ``why`` then says so in the figure's place.
    """

    name: str
    values: dict[int, float | None]
    unit: str
    of: str
    facts: dict[str, Any] = field(default_factory=dict)
    why: str | None = None
    aim: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The row as it is kept."""
        known = [value for value in self.values.values() if value is not None]
        figure = {"of": self.of, "unit": self.unit, "why": None if len(known) == len(self.values) else self.why}
        kept = {str(seed): value if value is None else float(f"{value:.5g}") for seed, value in self.values.items()}
        spreads = {"mean": float(f"{statistics.fmean(known):.4g}"), **spread(known)} if known else {}
        return {
            "name": self.name,
            "figure": figure | spreads,
            "aim": self.aim,
            "facts": self.facts,
            "values": kept,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    found = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {key: float(f"{value:.4g}") for key, value in found.items()}


def synchronize(device: torch.device) -> None:
    """Wait for the device, where it works by itself."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Work, device: torch.device) -> float:
    """Seconds of one call, to the end of what it has started on the device."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def in_turns(cases: Mapping[str, Work], setting: Setting) -> dict[str, list[float]]:
    """Seconds of each case by repeat; each repeat runs all of them, another first every time. The first is dropped."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    for repeat in range(setting.repeats + 1):
        for name in order:
            seconds = seconds_of(cases[name], setting.device)
            if repeat:
                found[name].append(seconds)
        order = order[1:] + order[:1]
    return found


def repeated(work: Work, times: int) -> Work:
    """Call ``work`` so many times."""

    def block() -> None:
        for _ in itertools.repeat(None, times):
            work()

    return block


def calls_of(work: Work, setting: Setting) -> int:
    """How many calls make a block, by the second of two; 2 to 500."""
    seconds = [seconds_of(work, setting.device) for _ in range(2)][1]
    return int(min(500, max(2, setting.block_seconds / max(seconds, 1e-6))))


def hardware(device: torch.device) -> str:
    """The device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def slug(name: str) -> str:
    """A file name for hardware."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def circumstances(setting: Setting) -> dict[str, Any]:
    """What a figure needs beside it."""
    versions = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    return {
        "hardware": hardware(setting.device),
        "host": processor(),
        "device": setting.device.type,
        "threads": torch.get_num_threads(),
        "git_commit": software()["git_commit"],
        "git_dirty": software()["git_dirty"],
        "versions": versions | ({"cuda": torch.version.cuda} if setting.device.type == "cuda" else {}),
    }


def load() -> list[float]:
    """The load average of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def measured(part: Callable[[Setting], Sequence[Row | Figure]], setting: Setting) -> dict[str, Any]:
    """Run one part; its rows with time, load and circumstances."""
    before = load()
    rows = [row.as_json() for row in part(setting)]
    time_now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "measured": time_now,
        "quick": setting.is_quick,
        "repeats": setting.repeats,
        "load_before": before,
        "load_after": load(),
        **circumstances(setting),
        "rows": rows,
    }
