"""Arguments and options that several commands take, and their defaults."""

import os
from pathlib import Path
from typing import Annotated

import typer

BENCHMARK = Path("benchmark")
RUNS = Path("runs")

SuiteFile = Annotated[Path, typer.Argument(metavar="SUITE", help="a suite file, such as suites/quick.yaml")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="FER_BENCH_DATA_DIR",
        help="FER2013: torchvision's layout, a folder with the CSV or with train/ and test/, or the CSV itself",
    ),
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="checkpoints, weights and private boards")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
Board = Annotated[Path, typer.Option("--board", help="the folder that holds results/ and predictions/")]
Offline = Annotated[bool, typer.Option("--offline", help="never ask a hub: fail at once where weights are not local")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="drop rows that break the format; records say so")]


def set_offline(offline: bool) -> None:
    """The hub's library reads this variable when it is imported, so it comes first."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
