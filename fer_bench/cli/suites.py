"""Commands on a suite: run, ensemble, oracle; and the schema of its file."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fer_bench.cli.exits import DONE, FAILED, code_of, stop_flag
from fer_bench.cli.options import (
    BENCHMARK,
    RUNS,
    Board,
    DataDir,
    Device,
    Offline,
    RunsDir,
    SkipBadRows,
    SuiteFile,
    set_offline,
)
from fer_bench.cli.plans import print_plan
from fer_bench.cli.printing import empty_table, show, title_of

ResultsAsJson = Annotated[bool, typer.Option("--json", help="print the results as JSON")]


def run(
    suite: SuiteFile,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            "--seed", min=0, max=2**31 - 1, help="instead of the suite's seeds, for runs and ensembles; repeatable"
        ),
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="NAME", help="only this member of the suite, with its votes; repeatable"),
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", help="the board's folder; default benchmark, or runs/SUITE for toy and limited runs"
        ),
    ] = None,
    runs_dir: RunsDir = RUNS,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first N rows of each part")] = None,
    offline: Offline = False,
    force: Annotated[bool, typer.Option("--force", help="do finished runs again")] = False,
    skip_bad_rows: SkipBadRows = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="runs at once on the device, each in its own process")] = 1,
    time_budget: Annotated[
        str | None,
        typer.Option("--time-budget", help="take the runs that fit into 90, 9m or 1h30m; a later call goes on"),
    ] = None,
    compiles: Annotated[
        bool, typer.Option("--compile", help="train through torch.compile: minutes at first, fewer and larger kernels")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run, with time and memory")] = False,
    as_json: ResultsAsJson = False,
) -> None:
    """Train, score and vote what SUITE asks for, then render the leaderboard. Finished runs are skipped."""
    set_offline(offline)
    from fer_bench.suite.budget import Budget, seconds_of

    budget = None if time_budget is None else Budget(seconds_of(time_budget))
    from fer_bench.suite import stages
    from fer_bench.suite.plan import Options
    from fer_bench.suite.progress import Display

    options = Options(
        *(data_dir, output_dir, runs_dir, tuple(dict.fromkeys(seed or ())), device, limit, force, skip_bad_rows),
        jobs=jobs,
        budget=budget,
        compiles=compiles,
        members=tuple(dict.fromkeys(member or ())),
    )
    display = Display()
    if dry_run:
        rows = stages.dry_run(suite, options, display)
        print_plan(rows) if not as_json else typer.echo(json.dumps(rows, indent=1))
        return
    with stop_flag() as (should_stop, caught):
        outcome = stages.run(suite, options, display, should_stop)
    if outcome.stopped:
        raise typer.Exit(code_of(caught))
    _end(outcome, as_json)


def ensemble(
    suite: SuiteFile,
    board: Board = BENCHMARK,
    force: Annotated[bool, typer.Option("--force", help="build finished ensembles again")] = False,
    as_json: ResultsAsJson = False,
) -> None:
    """Build the ensembles of SUITE from the board's records, then render the leaderboard. Trains nothing."""
    from fer_bench.suite.progress import Display
    from fer_bench.suite.votes import run_ensembles

    outcome = run_ensembles(suite, board, Display(), force=force)
    _end(outcome, as_json)


def _end(outcome: Any, as_json: bool) -> NoReturn:
    typer.echo(json.dumps(_as_rows(outcome), indent=1)) if as_json else _print_outcome(outcome)
    raise typer.Exit(DONE if outcome.is_whole else FAILED)


def _as_rows(outcome: Any) -> list[dict[str, Any]]:
    kept = ("name", "seed", "fold", "kind", "run_id", "figures", "passes", "headline", "failure")
    return [{key: record[key] for key in kept if key in record} for record in outcome.records]


def _print_outcome(outcome: Any) -> None:
    """The finished rows, best PublicTest first: PrivateTest orders the board, not the work."""
    from fer_bench.leaderboard.markdown import count

    table = empty_table(
        {"run": "l", "PublicTest %": "r", "PrivateTest %": "r", "macro-F1": "r", "one view %": "r", "passes": "r"}
    )
    finished = [record for record in outcome.records if record["kind"] != "failure"]
    for record in sorted(finished, key=lambda r: -r["figures"]["PublicTest"][r["headline"]]["accuracy"]):
        public, private = (record["figures"][part] for part in ("PublicTest", "PrivateTest"))
        view = record["headline"]
        cells = [100 * public[view]["accuracy"], 100 * private[view]["accuracy"], 100 * private[view]["macro_f1"]]
        single = f"{100 * private['none']['accuracy']:.2f}" if "none" in private else "-"
        table.add_row(title_of(record), *(f"{cell:.2f}" for cell in cells), single, str(record["passes"][view]))
    if finished:
        show(table)
    alike: dict[tuple[str, str], list[str]] = {}
    for record in outcome.failures:
        alike.setdefault((record["name"], record["failure"]["message"]), []).append(title_of(record))
    for (_, why), (first, *others) in alike.items():
        more = f" and {count(len(others), 'more run')} of it" if others else ""
        show(f"failed: {first}{more}: {why}")
    for name, why in outcome.withheld.items():
        show(f"withheld: {name}: {why}")
    for title, why in outcome.left.items():
        show(f"left: {title}: {why}; the same command goes on with it later")
    show(f"board: {outcome.board_file}")


def oracle(
    suite: SuiteFile,
    board: Board = BENCHMARK,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Show how far choosing on PrivateTest would have inflated the figures of SUITE. A diagnostic: it keeps nothing."""
    from fer_bench.suite.oracle import WARNING
    from fer_bench.suite.oracle import oracle as ask

    found = ask(suite, board)
    if as_json:
        rows = [dataclasses.asdict(row) | {"difference": row.difference} for row in found]
        typer.echo(json.dumps({"warning": WARNING, "choices": rows}, indent=1))
    else:
        _print_oracle(WARNING, found)


def _print_oracle(warning: str, found: list[Any]) -> None:
    from fer_bench.leaderboard.markdown import percent, points

    show(warning, "")
    for row in found:
        show(f"best {row.question}: inflated by {points(row.difference)} points")
        for who, choice in (("PublicTest chooses", row.honest), ("PrivateTest would choose", row.oracle)):
            show(f"  {who:24}  {percent(choice.accuracy)} % on PrivateTest: {choice.what}")


def schema() -> None:
    """Print the JSON schema of suite files, for editors."""
    from fer_bench.config import schema as make

    typer.echo(json.dumps(make(), indent=2))
