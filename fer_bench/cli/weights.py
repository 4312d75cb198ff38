"""Commands on weights, trained and pretrained: predict, fetch-weights."""

from pathlib import Path
from typing import Annotated

import typer

from fer_bench.cli.exits import FAILED
from fer_bench.cli.options import RUNS, Device, Offline, RunsDir, SuiteFile, set_offline
from fer_bench.errors import UserError


def predict(
    source: Annotated[Path, typer.Argument(metavar="IMAGES|CSV", help="an image, a folder of images, or FER2013 data")],
    model: Annotated[str, typer.Option("--model", help="a record: its JSON file, or its name on the board")],
    board: Annotated[
        Path | None,
        typer.Option("--board", help="holds results/ and predictions/; default: that of the JSON file, or benchmark"),
    ] = None,
    runs_dir: RunsDir = RUNS,
    device: Device = "auto",
    view: Annotated[
        str | None,
        typer.Option("--view", help="a view set, such as none, flip or ten-crop; default: the record's headline"),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="of FER2013 data, repeatable; default: all but labelled PrivateTest rows"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="a CSV file; default: stdout")] = None,
) -> None:
    """Predict emotions with a finished run, also for test.csv, which has no labels.

    PrivateTest rows that carry labels are predicted with --part PrivateTest only, and the look is noted.
    """
    from fer_bench.data import PARTS
    from fer_bench.files import write_atomic
    from fer_bench.suite import apply
    from fer_bench.suite.members import pick_device

    if view is not None:
        _require_view_set(view)
    for name in part or ():
        if name not in PARTS:
            raise UserError(f"--part: unknown {name!r}; use {', '.join(PARTS)}")
    text, notes = apply.predict(
        source, model, board=board, runs_dir=runs_dir, device=pick_device(device), view=view, parts=part or ()
    )
    for note in notes:
        typer.echo(note, err=True)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(output, text.encode())


def _require_view_set(name: str) -> None:
    from fer_bench.views import known

    try:
        known(name)
    except ValueError as error:
        raise UserError(f"--view: {error}") from None


def fetch_weights(suite: SuiteFile, offline: Offline = False) -> None:
    """Find or download the pretrained weights of every backbone in SUITE, so that it can run offline."""
    set_offline(offline)
    from fer_bench.suite import stages

    found = []
    for one in stages.fetch_weights(suite):
        typer.echo(f"{one.backbone}: {f'missing: {one.missing}' if one.missing else one.origin}")
        found.append(one)
    missing = [one for one in found if one.missing]
    if missing:
        elsewhere = "call this where their hubs can be reached, or " if any(one.is_at_a_hub for one in missing) else ""
        ways = f"{elsewhere}set `weights:` in {suite} to files"
        typer.echo(f"{len(missing)} of {len(found)} have no weights here: {ways}", err=True)
        raise typer.Exit(FAILED)
