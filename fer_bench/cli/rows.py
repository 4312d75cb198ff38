"""Commands that bring rows to a board from elsewhere: submit, pack, unpack."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fer_bench.cli.exits import DONE, FAILED
from fer_bench.cli.options import BENCHMARK, RUNS, Board, DataDir, RunsDir
from fer_bench.cli.printing import empty_table, show


def submit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.npz", help="arrays PublicTest and PrivateTest, (3589, 7) probabilities each")
    ],
    name: Annotated[str, typer.Option("--name", help="the row's name: a-z, 0-9, '.', '_', '-'")],
    source: Annotated[str, typer.Option("--source", help="who made them, with what: an address or words")],
    data_dir: DataDir = None,
    parameters: Annotated[int | None, typer.Option("--parameters", min=1, help="parameters of the model")] = None,
    side: Annotated[int | None, typer.Option("--side", min=1, help="side of its input in pixels")] = None,
    passes: Annotated[int | None, typer.Option("--passes", min=1, help="forward passes an image, in all")] = None,
    pretraining: Annotated[
        str | None, typer.Option("--pretraining", help="what it was trained on before, or none")
    ] = None,
    note: Annotated[str | None, typer.Option("--note", help="one sentence for the board")] = None,
    board: Board = BENCHMARK,
    force: Annotated[bool, typer.Option("--force", help="replace a submitted row of that name")] = False,
) -> None:
    """Score class probabilities that other software made, as a row of the board, and render the leaderboard.

    Labels come from the data, or, where none is given, from a record of the board.
    """
    from fer_bench import leaderboard as rendering
    from fer_bench.submit import Declared
    from fer_bench.submit import submit as make

    declared = Declared(parameters, side, passes, pretraining, note)
    done = make(file, name, source, board=board, data_dir=data_dir, declared=declared, force=force)
    for warning in done.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"labels: {done.record['labels_from']}", err=True)
    if not done.is_new:
        typer.echo(f"{name} is on the board already, unchanged", err=True)
    _print_submitted(done.record)
    show(f"board: {rendering.write(board, rendering.board_file(board))}")


def _print_submitted(record: dict[str, Any]) -> None:
    table = empty_table({"row": "l", "PublicTest %": "r", "PrivateTest %": "r", "macro-F1": "r", "run id": "l"})
    public, private = (record["figures"][part][record["headline"]] for part in ("PublicTest", "PrivateTest"))
    cells = [100 * public["accuracy"], 100 * private["accuracy"], 100 * private["macro_f1"]]
    table.add_row(record["name"], *(f"{cell:.2f}" for cell in cells), record["run_id"])
    show(table)


def pack(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="rows, or NAME.s1 for one seed; default: all")
    ] = None,
    board: Annotated[
        Path | None, typer.Option("--board", help="holds results/ and predictions/; default: benchmark, or the suite's")
    ] = None,
    suite: Annotated[
        Path | None, typer.Option("--suite", metavar="SUITE", help="only rows that this suite file declares")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="the file")] = Path("runs/records.zip"),
    weights: Annotated[
        list[str] | None, typer.Option("--weights", help="a row whose trained weights go along; repeatable")
    ] = None,
    runs_dir: RunsDir = RUNS,
    failures: Annotated[bool, typer.Option(help="take records of failed runs along")] = True,
) -> None:
    """Put the finished records of a board, failures too, into one small file for `fer-bench unpack`."""
    from fer_bench import pack as packing
    from fer_bench.config import load_suite

    among, default = None, BENCHMARK
    if suite is not None:
        declared = load_suite(suite)
        among = {member.name for member in declared.members} | {ensemble.name for ensemble in declared.ensembles}
        among |= {name for ensemble in declared.ensembles for name in ensemble.submitted}
        if declared.data == "toyfaces":
            default = runs_dir / declared.suite
    done = packing.pack(
        board or default,
        output,
        names=names or (),
        among=among,
        weights=weights or (),
        runs_dir=runs_dir,
        failures=failures,
    )
    for line in done.left_out:
        typer.echo(f"left out: {line}", err=True)
    typer.echo(f"{output}: {len(done.titles)} records, {done.size / 1e6:.1f} MB: {', '.join(done.titles)}")
    raise typer.Exit(FAILED if done.left_out else DONE)


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what `fer-bench pack` wrote on another machine")],
    board: Board = BENCHMARK,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Verify a file of packed records, take those that are new into the board, and render the leaderboard."""
    from fer_bench import leaderboard as rendering
    from fer_bench import pack as packing

    verdicts = packing.unpack(file, board, runs_dir=runs_dir)
    for verdict in verdicts:
        typer.echo(f"{verdict.state:8} {verdict.title}{f': {verdict.why}' if verdict.why else ''}")
    counts = {state: sum(v.state == state for v in verdicts) for state in ("new", "known", "refused")}
    typer.echo(", ".join(f"{count} {state}" for state, count in counts.items()))
    if board.is_dir():
        typer.echo(f"board: {rendering.write(board, rendering.board_file(board))}")
    raise typer.Exit(FAILED if counts["refused"] else DONE)
