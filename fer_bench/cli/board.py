"""Commands on the rows that a board has: leaderboard, compare, errors."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from fer_bench.cli.exits import DONE, FAILED
from fer_bench.cli.options import BENCHMARK, RUNS, Board, DataDir, RunsDir
from fer_bench.cli.printing import empty_table, show
from fer_bench.errors import UserError


def leaderboard(
    board: Board = BENCHMARK,
    check: Annotated[
        bool, typer.Option("--check", help="verify every record and the rendered files, change nothing")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="REF",
            help="with --check: judge a pull request into REF, such as origin/main, and sum it up as markdown",
        ),
    ] = None,
) -> None:
    """Render the leaderboard from committed records, or check that it is what they say."""
    from fer_bench import leaderboard as rendering

    if base is not None and not check:
        raise UserError("--base: goes with --check, as in `fer-bench leaderboard --check --base origin/main`")
    if not board.is_dir():
        raise UserError(f"{board}: no such folder; run this at the top of a checkout, or name one with --board")
    target = rendering.board_file(board)
    if not check:
        rendering.write(board, target)
        typer.echo(target)
        return
    if base is not None:
        review = rendering.review(board, target, base)
        typer.echo(review.text, nl=False)
        raise typer.Exit(FAILED if review.problems else DONE)
    problems = rendering.check(board, target)
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise typer.Exit(FAILED)
    typer.echo(f"{target} and every record of {board} are in order")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="a row's name, or NAME.s1 for another seed than its lowest")],
    b: Annotated[str, typer.Argument(metavar="B", help="the row to compare it with")],
    board: Board = BENCHMARK,
    view: Annotated[
        str | None, typer.Option("--view", help="a view set that both store; default: each row's own headline")
    ] = None,
    part: Annotated[
        str, typer.Option("--part", help="PrivateTest, the result; or PublicTest, to choose between the two")
    ] = "PrivateTest",
) -> None:
    """Compare two rows image by image: A minus B, with interval and exact test."""
    from fer_bench.compare import compare as pair

    found = pair(board, a, b, view, part)
    _print_comparison(found)


def _print_comparison(found: Any) -> None:
    from fer_bench.data import EMOTIONS
    from fer_bench.leaderboard.markdown import p_value, percent, points, points_interval

    a, b = found.a, found.b
    table = empty_table({"": "l", "images": "r", a.title: "r", b.title: "r", "A − B, points": "l"})
    table.add_row("views", "", a.view, b.view, "")
    accuracies = percent(a.accuracy), percent(b.accuracy)
    table.add_row(
        "accuracy %", str(found.images), *accuracies, points_interval(found.difference, found.low, found.high)
    )
    table.add_row("right where the other is wrong", "", str(a.only_right), str(b.only_right), p_value(found.p))
    for i, difference in enumerate(found.recall_differences):
        recalls = percent(a.recall[i]), percent(b.recall[i])
        table.add_row(f"recall % {EMOTIONS[i]}", str(found.support[i]), *recalls, points(difference))
    notes = f"{found.part}; in brackets a 95 % paired bootstrap interval; p: exact McNemar, of this pair alone"
    show(table, notes)


def errors(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a row's name, or NAME.s1 for another seed")],
    board: Board = BENCHMARK,
    part: Annotated[
        str, typer.Option("--part", help="PublicTest, or PrivateTest, from which nothing is suggested")
    ] = "PublicTest",
    view: Annotated[str | None, typer.Option("--view", help="a view set that the row stores; default: its own")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="confusions and confident mistakes to list")] = 10,
    data_dir: DataDir = None,
    runs_dir: RunsDir = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="print all counts as JSON")] = False,
) -> None:
    """Say where a row's errors lie, and what its figures suggest to try next; needs neither data nor torch.

    With FER2013 at hand (--data-dir) the most confident mistakes of PublicTest are drawn into RUNS_DIR/errors/.
    """
    from fer_bench.diagnosis import write_sheet
    from fer_bench.leaderboard import mistakes

    record, found, suggested = mistakes.examine(board, name, part, view)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"suggestions": [asdict(one) for one in suggested]}, indent=1))
    else:
        _print_errors(mistakes, found, suggested, top)
    if data_dir:
        typer.echo(write_sheet(runs_dir / "errors", found, record["data"]["digest"], data_dir), err=True)


def _print_errors(mistakes: Any, found: Any, suggested: list[Any], top: int) -> None:
    show(mistakes.heading(found))
    for sheet in mistakes.sheets(found, top):
        table = empty_table(dict(zip(sheet.head, sheet.align, strict=True)))
        for row in sheet.rows:
            table.add_row(*row)
        show(f"\n{sheet.title}", table)
    show("\nWhat to try next", *mistakes.advice(found, suggested))
