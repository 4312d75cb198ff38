"""``python benchmark/speed``: measure the ratios here, keep them as JSON, render README's section (see --help)."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report
from fer_bench.errors import UserError

PARTS = {
    "epochs": "training.epochs",
    "loops": "training.loops",
    "settings": "training.settings",
    "jobs": "sharing.jobs",
    "views": "inference.views",
    "parsing": "reading.parsing",
    "ensembles": "growth.ensembles",
    "rendering": "growth.rendering",
}


def options(words: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python benchmark/speed", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or more of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, its figures mean nothing")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement (default 5)")
    parser.add_argument("--sides", type=int, nargs="+", default=[48, 96, 112, 224], help="input sides in pixels")
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "tf_efficientnet_lite0"])
    parser.add_argument("--data-dir", type=Path, help="FER2013 as a CSV; default: random pixels of the same size")
    parser.add_argument("-o", "--output", type=Path, help="default: benchmark/speed/results/HARDWARE.json")
    parser.add_argument("--render", action="store_true", help="only render README's section from the recorded figures")
    parser.add_argument("--check", action="store_true", help="only check that README's section agrees with them")
    given = parser.parse_args(words)
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    if given.repeats < 1 or min(given.sides) < 32:
        parser.error("--repeats must be at least 1 and --sides at least 32")
    return given


def main(words: list[str]) -> int:
    """Do what the command line says; 1 where the check fails or nothing was measured."""
    given = options(words)
    if given.check:
        return check()
    if not given.render:
        run(given)
    if given.render or (given.output is None and not given.quick):
        text = report.README.read_text(encoding="utf-8")
        report.write_atomic(report.README, report.rendered(text, report.read()).encode())
        print(f"rendered into {report.README}", file=sys.stderr)
    return 0


def check() -> int:
    """Compare README's section with the recorded figures."""
    text = report.README.read_text(encoding="utf-8")
    if report.rendered(text, report.read()) == text:
        print("README's speed section is what benchmark/speed/results says")
        return 0
    print(
        "README.md: its speed section is not what benchmark/speed/results says; run `python benchmark/speed --render`"
    )
    return 1


def run(given: argparse.Namespace) -> None:
    """Measure part by part, and keep each as soon as it is done."""
    import measure
    from fer_bench.suite.members import pick_device

    setting = measure.Setting(
        device=pick_device(given.device),
        repeats=1 if given.quick else given.repeats,
        is_quick=given.quick,
        data=given.data_dir,
        sides=(48,) if given.quick else tuple(given.sides),
        backbones=tuple(given.backbones),
    )
    hardware = measure.hardware(setting.device)
    folder = Path("runs") / "speed-quick" if given.quick else report.RESULTS
    path = given.output or folder / f"{measure.slug(hardware)}.json"
    for part in given.parts or PARTS:
        print(f"{report.TITLES[part]} ({part}), on {hardware}", file=sys.stderr)
        found = measure.measured(_function(PARTS[part]), setting)
        for row in found["rows"]:
            print(line(part, row))
        report.store(path, hardware, {part: found})
    print(f"kept in {path}", file=sys.stderr)


def line(part: str, row: dict[str, Any]) -> str:
    """One ratio for the terminal."""
    median, low, high = (f"{row['ratio'][key]:.3g}" for key in ("median", "low", "high"))
    return f"{part:10} {row['name']:50} {median:>8}  [{low}, {high}]  {row['aim'] or ''}"


def _function(place: str) -> Callable[..., Any]:
    """Import a part only when it is asked for."""
    module, name = place.split(".")
    return getattr(__import__(module), name)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"speed: {error}")
