"""Commands that look at data: data check, data audit."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fer_bench.cli.options import SkipBadRows

Fer2013 = Annotated[Path, typer.Argument(metavar="PATH", help="a file or folder in any form of FER2013")]


def check(path: Fer2013, skip_bad_rows: SkipBadRows = False) -> None:
    """Say what PATH holds: form, counts a part and class, digest, canonical or not."""
    from fer_bench import data

    typer.echo(data.check(path, skip_bad_rows))


def audit(
    path: Fer2013,
    ferplus: Annotated[
        Path | None, typer.Option("--ferplus", help="the votes of FER+, fer2013new.csv; default: beside the data")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="keep the row lists for a board, as in benchmark/audit.json")
    ] = None,
    report: Annotated[
        Path, typer.Option("--report", help="folder for the page and the sheet of examples, which are not committed")
    ] = Path("runs/audit"),
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Find twins within and across parts, conflicting labels, constant images; compare labels with FER+. Minutes."""
    from fer_bench import audit as auditing
    from fer_bench import data

    faces = data.load(path, skip_bad_rows=skip_bad_rows)
    if write:
        auditing.refuse_partial(write, faces)
    found = auditing.examine(faces, ferplus or auditing.beside(path), progress=_tenths("comparing images"))
    if write:
        auditing.save(write, found)
    typer.echo(auditing.summary(found), nl=False)
    typer.echo(f"report               {auditing.write_report(report, found)}")


def _tenths(what: str) -> Callable[[float], None]:
    """Say each tenth of a long step on stderr, one plain line each."""
    said = [0]

    def progress(share: float) -> None:
        if int(10 * share) > said[0]:
            said[0] = int(10 * share)
            typer.echo(f"{what}: {10 * said[0]} %", err=True)

    return progress
