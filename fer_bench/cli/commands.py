"""All commands in the order of their help, and what becomes of an error."""

import os
import sys
from typing import Annotated

import typer

from fer_bench import __version__
from fer_bench.cli import board, data, rows, suites, tuning, weights
from fer_bench.cli.exits import INTERRUPTED, USAGE
from fer_bench.errors import UserError

app = typer.Typer(
    help="Fine-tune, compare and combine image classifiers on FER2013, and render an honest leaderboard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at data before using it.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fer-bench {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="show the whole traceback of an error")] = False,
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = None,
) -> None:
    os.environ["FER_BENCH_DEBUG"] = "1" if debug else ""


for _command in (
    suites.run,
    suites.ensemble,
    suites.oracle,
    tuning.tune,
    board.leaderboard,
    rows.submit,
    rows.pack,
    rows.unpack,
    board.compare,
    board.errors,
    weights.predict,
    weights.fetch_weights,
    suites.schema,
):
    app.command()(_command)
data_app.command()(data.check)
data_app.command()(data.audit)


def main() -> None:
    """Run a command; a user's mistake is a line on stderr and exit code 2, a traceback only with --debug."""
    try:
        app()
    except (UserError, OSError) as error:
        if os.environ.get("FER_BENCH_DEBUG"):
            raise
        for line in _lines_of(error):
            print(f"fer-bench: {line}", file=sys.stderr)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        print("fer-bench: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _lines_of(error: UserError | OSError) -> list[str]:
    if isinstance(error, UserError):
        return str(error).splitlines()
    place = error.filename2 or error.filename  # of a file that was to take the place of another
    where = f"{place}: " if place else ""
    return [f"{where}{error.strerror or error}"]
