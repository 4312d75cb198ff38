"""``python benchmark/speed``: measure the ratios here, keep them as JSON, render README's section (see --help)."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report
from fer_bench import data
from fer_bench.errors import UserError

PARTS = {
    "epochs": "training.epochs",
    "loops": "training.loops",
    "settings": "training.settings",
    "accuracy": "accuracy.accuracy",
    "jobs": "sharing.jobs",
    "views": "inference.views",
    "parsing": "reading.parsing",
    "ensembles": "growth.ensembles",
    "rendering": "growth.rendering",
    "reach": "reach.reach",
    "forecasts": "forecasts.forecasts",
}
DATA_HELP = (
    f"FER2013, by default ${data.loading.ENVIRONMENT}; without it the parts take random pixels or toy faces, and reach "
    "is skipped"
)


def options(words: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python benchmark/speed", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or more of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, its figures mean nothing")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement (default 5)")
    parser.add_argument("--sides", type=int, nargs="+", default=[48, 96, 112, 224], help="input sides in pixels")
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "tf_efficientnet_lite0"])
    parser.add_argument("--data-dir", type=Path, help=DATA_HELP)
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
    """Do what the command line says; 1 where the check or a part fails."""
    given = options(words)
    if given.check:
        return check()
    failed = [] if given.render else run(given)
    if given.render or (given.output is None and not given.quick):
        text = report.README.read_text(encoding="utf-8")
        report.write_atomic(report.README, report.rendered(text, report.read()).encode())
        print(f"rendered into {report.README}", file=sys.stderr)
    return 1 if failed else 0


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


def run(given: argparse.Namespace) -> list[str]:
    """Measure part by part, and keep each as soon as it is done; returns the parts that failed."""
    import measure
    from fer_bench.suite.members import pick_device

    setting = measure.Setting(
        device=pick_device(given.device),
        repeats=1 if given.quick else given.repeats,
        is_quick=given.quick,
        data=None if given.quick else data_of(given.data_dir),
        sides=(48,) if given.quick else tuple(given.sides),
        backbones=tuple(given.backbones),
    )
    hardware = measure.hardware(setting.device)
    folder = Path("runs") / "speed-quick" if given.quick else report.RESULTS
    path = given.output or folder / f"{measure.slug(hardware)}.json"
    failed = []
    for part in given.parts or PARTS:
        print(f"{report.TITLES[part]} ({part}), on {hardware}", file=sys.stderr)
        try:
            found = measure.measured(_function(PARTS[part]), setting)
        except measure.SkippedError as why:
            print(f"{part}: skipped, {why}", file=sys.stderr)
            continue
        except Exception as error:  # whatever stops one part must not lose the others
            if os.environ.get("FER_BENCH_DEBUG"):
                raise
            print(f"{part}: failed, {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", file=sys.stderr)
            failed.append(part)
            continue
        for row in found["rows"]:
            print(line(part, row))
        report.store(path, hardware, {part: found})
        print(f"kept in {path}", file=sys.stderr)
    return failed


def data_of(path: Path | None) -> Path | None:
    """Where the data is, by the option or the environment; what is there must be readable before an hour has passed."""
    if path is None and not os.environ.get(data.loading.ENVIRONMENT):
        return None
    found = data.loading.given(path)
    data.require_labels(data.load(found), data.PARTS[0])
    return found


def line(part: str, row: dict[str, Any]) -> str:
    """One row for the terminal."""
    return f"{part:10} {row['name']:50} {report.in_words(row):>24}  {row['aim'] or ''}".rstrip()


def _function(place: str) -> Callable[..., Any]:
    """Import a part only when it is asked for."""
    module, name = place.split(".")
    return getattr(__import__(module), name)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"speed: {error}")
