"""The commands. Results go to stdout, all else to stderr; nothing heavy is imported before it is needed."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fer_bench import __version__
from fer_bench.errors import UserError

DONE, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

app = typer.Typer(
    help="Fine-tune, compare and combine image classifiers on FER2013, and render an honest leaderboard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at data before using it.", no_args_is_help=True)
app.add_typer(data_app, name="data")

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


@contextlib.contextmanager
def _stop_flag() -> Iterator[tuple[Callable[[], bool], list[int]]]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop that training asks for; a second Ctrl-C ends at once."""
    caught: list[int] = []

    def note(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield (lambda: bool(caught)), caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command()
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
    runs_dir: RunsDir = Path("runs"),
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first N rows of each part")] = None,
    offline: Offline = False,
    force: Annotated[bool, typer.Option("--force", help="do finished runs again")] = False,
    skip_bad_rows: SkipBadRows = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="runs at once on the device, each in its own process")] = 1,
    time_budget: Annotated[
        str | None,
        typer.Option("--time-budget", help="take the runs that fit into 90, 9m or 1h30m; a later call goes on"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run, with time and memory")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the results as JSON")] = False,
) -> None:
    """Train, score and vote what SUITE asks for, then render the leaderboard. Finished runs are skipped."""
    _set_offline(offline)
    from fer_bench.suite.budget import Budget, seconds_of

    budget = None if time_budget is None else Budget(seconds_of(time_budget))
    from fer_bench.suite import stages
    from fer_bench.suite.plan import Options
    from fer_bench.suite.progress import Display

    options = Options(
        *(data_dir, output_dir, runs_dir, tuple(dict.fromkeys(seed or ())), device, limit, force, skip_bad_rows),
        jobs=jobs,
        budget=budget,
        members=tuple(dict.fromkeys(member or ())),
    )
    display = Display()
    if dry_run:
        rows = stages.dry_run(suite, options, display)
        _print_plan(rows) if not as_json else typer.echo(json.dumps(rows, indent=1))
        return
    with _stop_flag() as (should_stop, caught):
        outcome = stages.run(suite, options, display, should_stop)
    if outcome.stopped:
        raise typer.Exit(TERMINATED if caught and caught[0] == signal.SIGTERM else INTERRUPTED)
    typer.echo(json.dumps(_as_rows(outcome), indent=1)) if as_json else _print_outcome(outcome)
    raise typer.Exit(DONE if outcome.is_whole else FAILED)


def _set_offline(offline: bool) -> None:
    """The hub's library reads this variable when it is imported, so it comes first."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _as_rows(outcome: Any) -> list[dict[str, Any]]:
    kept = ("name", "seed", "fold", "kind", "run_id", "figures", "passes", "headline", "failure")
    return [{key: record[key] for key in kept if key in record} for record in outcome.records]


def _table(columns: dict[str, str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in columns.items():
        table.add_column(name, justify="right" if side == "r" else "left", no_wrap=True)
    return table


def _print(*things: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)  # a table is as wide as it is, and never cut
    for thing in things:
        console.print(thing, markup=False, soft_wrap=True) if isinstance(thing, str) else console.print(thing)


def _print_outcome(outcome: Any) -> None:
    """The finished rows, best PublicTest first: PrivateTest orders the board, not the work."""
    table = _table(
        {"run": "l", "PublicTest %": "r", "PrivateTest %": "r", "macro-F1": "r", "one view %": "r", "passes": "r"}
    )
    finished = [record for record in outcome.records if record["kind"] != "failure"]
    for record in sorted(finished, key=lambda r: -r["figures"]["PublicTest"][r["headline"]]["accuracy"]):
        public, private = (record["figures"][part] for part in ("PublicTest", "PrivateTest"))
        view = record["headline"]
        cells = [100 * public[view]["accuracy"], 100 * private[view]["accuracy"], 100 * private[view]["macro_f1"]]
        single = f"{100 * private['none']['accuracy']:.2f}" if "none" in private else "-"
        table.add_row(_title(record), *(f"{cell:.2f}" for cell in cells), single, str(record["passes"][view]))
    _print(table)
    for record in outcome.failures:
        _print(f"failed: {_title(record)}: {record['failure']['message']}")
    for name, why in outcome.withheld.items():
        _print(f"withheld: {name}: {why}")
    for title, why in outcome.left.items():
        _print(f"left: {title}: {why}; the same command goes on with it later")
    _print(f"board: {outcome.board_file}")


def _title(row: dict[str, Any]) -> str:
    """Name, seed and fold, as far as it has them."""
    seed = "" if row["seed"] is None else f" seed {row['seed']}"
    return f"{row['name']}{seed}" + (f" fold {row['fold']}" if row.get("fold") is not None else "")


def _print_plan(rows: list[dict[str, Any]]) -> None:
    from fer_bench.suite.progress import duration

    runs = [row for row in rows if row["kind"] != "ensemble"]
    votes = [row for row in rows if row["kind"] == "ensemble"]
    missing = sorted({row["unavailable"] for row in runs if row["unavailable"] and not row["cannot_run"]})
    failing = dict.fromkeys(f"{row['name']}: cannot run: {row['cannot_run']}" for row in runs if row["cannot_run"])
    total = sum(row.get("seconds", 0) for row in runs)
    _print(_table_of_runs(runs), *([_table_of_votes(votes)] if votes else []), *failing, *missing)
    _print(f"estimated time of what can start: {duration(total)}")
    later = [_title(row) for row in runs if not row.get("fits", True)]
    if later:
        _print(f"one by one, the budget leaves for a later call: {', '.join(later)}")


def _table_of_runs(rows: list[dict[str, Any]]) -> Any:
    from fer_bench.suite.progress import duration

    table = _table(
        {"run": "l", "backbone": "l", "px": "r", "parameters": "r", "state": "l", "time": "r", "memory": "r"}
    )
    for row in rows:
        known = "seconds" in row
        table.add_row(
            _title(row),
            row["backbone"],
            str(row["image_size"]),
            f"{row['parameters'] / 1e6:.2f} M" if known else "-",
            _state_of(row),
            duration(row["seconds"]) if known else "-",
            f"{row['bytes'] / 2**30:.2f} GiB" if known else "-",
        )
    return table


def _table_of_votes(rows: list[dict[str, Any]]) -> Any:
    table = _table({"ensemble": "l", "method": "l", "runs": "r", "what the run does": "l"})
    table.columns[-1].no_wrap = False
    for row in rows:
        table.add_row(row["name"], row["method"], str(row["runs"]), row["does"])
    return table


def _state_of(row: dict[str, Any]) -> str:
    """The state of a planned run, that its weights are to be fetched, or in a few words why it cannot run."""
    if row["cannot_run"]:
        what = row["cannot_run"].split(": ", 1)[-1]  # without the key or the backbone, which the line below names
        return f"cannot run: {re.split('[,;(]', what)[0].strip()}"
    if row["unavailable"]:
        return "weights not local"
    return "score kept weights" if row["state"] == "score" else row["state"]


@app.command()
def ensemble(
    suite: SuiteFile,
    board: Board = Path("benchmark"),
    force: Annotated[bool, typer.Option("--force", help="build finished ensembles again")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the results as JSON")] = False,
) -> None:
    """Build the ensembles of SUITE from the board's records, then render the leaderboard. Trains nothing."""
    from fer_bench.suite.progress import Display
    from fer_bench.suite.votes import run_ensembles

    outcome = run_ensembles(suite, board, Display(), force=force)
    typer.echo(json.dumps(_as_rows(outcome), indent=1)) if as_json else _print_outcome(outcome)
    raise typer.Exit(DONE if outcome.is_whole else FAILED)


@app.command()
def oracle(
    suite: SuiteFile,
    board: Board = Path("benchmark"),
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

    _print(warning, "")
    for row in found:
        _print(f"best {row.question}: inflated by {points(row.difference)} points")
        for who, choice in (("PublicTest chooses", row.honest), ("PrivateTest would choose", row.oracle)):
            _print(f"  {who:24}  {percent(choice.accuracy)} % on PrivateTest: {choice.what}")


@app.command()
def tune(
    backbone: Annotated[
        str, typer.Option("--backbone", help="a timm name, torchvision:NAME, scratch:NAME or baseline:NAME")
    ],
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="in all, over restarts and workers; default 30, or no limit")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", help="time of work in all, such as 90m or 8h, over restarts and workers")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            envvar="FER_BENCH_STORAGE",
            show_envvar=True,
            help="default RUNS_DIR/tune/tune.db; a .db or .journal file, or postgresql://USER@HOST/DATABASE",
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="local processes, each with one trial")] = 1,
    space: Annotated[Path | None, typer.Option("--space", help="YAML: what is searched, fixed, tried first")] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="score on K folds of Training instead of a holdout")
    ] = None,
    pruner: Annotated[str, typer.Option("--pruner", help="auto, median, halving, hyperband or none")] = "auto",
    image_size: Annotated[int | None, typer.Option("--image-size", min=32, help="fix the side in pixels")] = None,
    data: Annotated[str, typer.Option("--data", help="fer2013, or toyfaces to try the command")] = "fer2013",
    data_dir: DataDir = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first N rows of Training")] = None,
    device: Device = "auto",
    runs_dir: RunsDir = Path("runs"),
    suite_out: Annotated[
        Path | None, typer.Option("--suite-out", help="default suites/tuned/BACKBONE.yaml; for toy faces in RUNS_DIR")
    ] = None,
    offline: Offline = False,
    skip_bad_rows: SkipBadRows = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be searched, as a space file")] = False,
) -> None:
    """Search good settings for one backbone on a holdout of Training, and write them as a suite.

    The same command goes on with a study that was stopped, and joins one that runs elsewhere on the same storage.
    """
    _set_offline(offline)
    from fer_bench.suite import tuning
    from fer_bench.suite.plan import Options
    from fer_bench.suite.progress import Display

    if data not in ("fer2013", "toyfaces"):
        raise UserError(f"--data: unknown {data!r}; use fer2013 or toyfaces")
    options = Options(data_dir, None, runs_dir, (), device, limit, False, skip_bad_rows)
    chosen = None if pruner == "auto" else pruner
    sizes = (image_size, folds, trials, timeout, storage, workers)
    request = tuning.Request(backbone, options, data, space, *sizes, chosen, suite_out)
    if dry_run:
        typer.echo(tuning.space_text(request), nl=False)
        return
    with _stop_flag() as (should_stop, caught):
        ending = tuning.run(request, Display(), should_stop)
    _print_study(ending)
    if ending.verdict == "stopped":
        raise typer.Exit(TERMINATED if caught and caught[0] == signal.SIGTERM else INTERRUPTED)
    raise typer.Exit(FAILED if ending.verdict == "failures" or ending.result.best is None else DONE)


def _print_study(ending: Any) -> None:
    """The best setting beside the default one, and whether the difference is one."""
    from fer_bench.tune.report import lines, settings

    table = _table({"": "l", "default": "r", "best": "r", "importance": "r"})
    for row in settings(ending.result, ending.space):
        table.add_row(*row)
    _print(*([table] if table.row_count else []), *lines(ending.result, ending.verdict, ending.failures))
    if ending.suite is not None:
        _print(f"figures: {ending.folder}", f"suite: {ending.suite}; fer-bench run takes it, with fresh seeds")


@app.command()
def leaderboard(
    board: Board = Path("benchmark"),
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


@app.command()
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
    board: Board = Path("benchmark"),
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
    _print(f"board: {rendering.write(board, rendering.board_file(board))}")


def _print_submitted(record: dict[str, Any]) -> None:
    table = _table({"row": "l", "PublicTest %": "r", "PrivateTest %": "r", "macro-F1": "r", "run id": "l"})
    public, private = (record["figures"][part][record["headline"]] for part in ("PublicTest", "PrivateTest"))
    cells = [100 * public["accuracy"], 100 * private["accuracy"], 100 * private["macro_f1"]]
    table.add_row(record["name"], *(f"{cell:.2f}" for cell in cells), record["run_id"])
    _print(table)


@app.command()
def pack(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="rows, or NAME.s1 for one seed; default: all")
    ] = None,
    board: Board = Path("benchmark"),
    output: Annotated[Path, typer.Option("--output", "-o", help="the file")] = Path("runs/records.zip"),
    weights: Annotated[
        list[str] | None, typer.Option("--weights", help="a row whose trained weights go along; repeatable")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    failures: Annotated[bool, typer.Option(help="take records of failed runs along")] = True,
) -> None:
    """Put the finished records of a board, failures too, into one small file for `fer-bench unpack`."""
    from fer_bench import pack as packing

    done = packing.pack(board, output, names=names or (), weights=weights or (), runs_dir=runs_dir, failures=failures)
    for line in done.left_out:
        typer.echo(f"left out: {line}", err=True)
    typer.echo(f"{output}: {len(done.titles)} records, {done.size / 1e6:.1f} MB: {', '.join(done.titles)}")
    raise typer.Exit(FAILED if done.left_out else DONE)


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what `fer-bench pack` wrote on another machine")],
    board: Board = Path("benchmark"),
    runs_dir: RunsDir = Path("runs"),
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


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="a row's name, or NAME.s1 for another seed than its lowest")],
    b: Annotated[str, typer.Argument(metavar="B", help="the row to compare it with")],
    board: Board = Path("benchmark"),
    view: Annotated[
        str | None, typer.Option("--view", help="a view set that both store; default: each row's own headline")
    ] = None,
) -> None:
    """Compare two rows on PrivateTest, image by image: A minus B, with interval and exact test."""
    from fer_bench.compare import compare as pair

    found = pair(board, a, b, view)
    _print_comparison(found)


def _print_comparison(found: Any) -> None:
    from fer_bench.data import EMOTIONS
    from fer_bench.leaderboard.markdown import p_value, percent, points, points_interval

    a, b = found.a, found.b
    table = _table({"": "l", "images": "r", a.title: "r", b.title: "r", "A − B, points": "l"})
    table.add_row("views", "", a.view, b.view, "")
    accuracies = percent(a.accuracy), percent(b.accuracy)
    table.add_row(
        "accuracy %", str(found.images), *accuracies, points_interval(found.difference, found.low, found.high)
    )
    table.add_row("right where the other is wrong", "", str(a.only_right), str(b.only_right), p_value(found.p))
    for i, difference in enumerate(found.recall_differences):
        recalls = percent(a.recall[i]), percent(b.recall[i])
        table.add_row(f"recall % {EMOTIONS[i]}", str(found.support[i]), *recalls, points(difference))
    notes = "PrivateTest; in brackets a 95 % paired bootstrap interval; p: exact McNemar, of this pair alone"
    _print(table, notes)


@app.command("errors")
def errors_of(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a row's name, or NAME.s1 for another seed")],
    board: Board = Path("benchmark"),
    part: Annotated[
        str, typer.Option("--part", help="PublicTest, or PrivateTest, from which nothing is suggested")
    ] = "PublicTest",
    view: Annotated[str | None, typer.Option("--view", help="a view set that the row stores; default: its own")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="confusions and confident mistakes to list")] = 10,
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="print all counts as JSON")] = False,
) -> None:
    """Say where a row's errors lie, and what its figures suggest to try next; needs neither data nor torch.

    With FER2013 at hand (--data-dir) the most confident mistakes of PublicTest are drawn into RUNS_DIR/errors/.
    """
    from dataclasses import asdict

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
    _print(mistakes.heading(found))
    for sheet in mistakes.sheets(found, top):
        table = _table(dict(zip(sheet.head, sheet.align, strict=True)))
        for row in sheet.rows:
            table.add_row(*row)
        _print(f"\n{sheet.title}", table)
    _print("\nWhat to try next", *mistakes.advice(found, suggested))


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(metavar="IMAGES|CSV", help="an image, a folder of images, or FER2013 data")],
    model: Annotated[str, typer.Option("--model", help="a record: its JSON file, or its name on the board")],
    board: Annotated[
        Path | None,
        typer.Option("--board", help="holds results/ and predictions/; default: that of the JSON file, or benchmark"),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
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


@app.command("fetch-weights")
def fetch_weights(suite: SuiteFile) -> None:
    """Find or download the pretrained weights of every backbone in SUITE, so that it can run offline."""
    from fer_bench.suite import stages

    found = stages.fetch_weights(suite)
    for backbone, origin in found:
        typer.echo(f"{backbone}: {origin}")
    if any(origin.startswith("missing") for _, origin in found):
        raise typer.Exit(FAILED)


@app.command()
def schema() -> None:
    """Print the JSON schema of suite files, for editors."""
    from fer_bench.config import schema as make

    typer.echo(json.dumps(make(), indent=2))


@data_app.command("check")
def data_check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="a file or folder in any form of FER2013")],
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Say what PATH holds: form, counts a part and class, digest, canonical or not."""
    from fer_bench import data

    typer.echo(data.check(path, skip_bad_rows))


@data_app.command("audit")
def data_audit(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="a file or folder in any form of FER2013")],
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
    from fer_bench import audit, data

    faces = data.load(path, skip_bad_rows=skip_bad_rows)
    if write:
        audit.refuse_partial(write, faces)
    found = audit.examine(faces, ferplus or audit.beside(path), progress=_tenths("comparing images"))
    if write:
        audit.save(write, found)
    typer.echo(audit.summary(found), nl=False)
    typer.echo(f"report               {audit.write_report(report, found)}")


def _tenths(what: str) -> Callable[[float], None]:
    """Say each tenth of a long step on stderr, one plain line each."""
    said = [0]

    def progress(share: float) -> None:
        if int(10 * share) > said[0]:
            said[0] = int(10 * share)
            typer.echo(f"{what}: {10 * said[0]} %", err=True)

    return progress


def main() -> None:
    """Run a command; a user's mistake is a line on stderr and exit code 2, a traceback only with --debug."""
    try:
        app()
    except UserError as error:
        if os.environ.get("FER_BENCH_DEBUG"):
            raise
        for line in str(error).splitlines():
            print(f"fer-bench: {line}", file=sys.stderr)
        sys.exit(USAGE)
    except OSError as error:
        if os.environ.get("FER_BENCH_DEBUG"):
            raise
        place = error.filename2 or error.filename  # of a file that was to take the place of another
        where = f"{place}: " if place else ""
        print(f"fer-bench: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        print("fer-bench: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
