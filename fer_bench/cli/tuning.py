"""The command that searches: tune."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fer_bench.cli.exits import DONE, FAILED, code_of, stop_flag
from fer_bench.cli.options import RUNS, DataDir, Device, Offline, RunsDir, SkipBadRows, set_offline
from fer_bench.cli.printing import empty_table, show
from fer_bench.errors import UserError


def tune(
    backbone: Annotated[
        str, typer.Option("--backbone", help="a timm name, torchvision:NAME, scratch:NAME, baseline:NAME or dlib:NAME")
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
    runs_dir: RunsDir = RUNS,
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
    set_offline(offline)
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
    with stop_flag() as (should_stop, caught):
        ending = tuning.run(request, Display(), should_stop)
    _print_study(ending)
    if ending.verdict == "stopped":
        raise typer.Exit(code_of(caught))
    raise typer.Exit(FAILED if ending.verdict == "failures" or ending.result.best is None else DONE)


def _print_study(ending: Any) -> None:
    """The best setting beside the default one, and whether the difference is one."""
    from fer_bench.tune.report import lines, settings

    table = empty_table({"": "l", "default": "r", "best": "r", "importance": "r"})
    for row in settings(ending.result, ending.space):
        table.add_row(*row)
    show(*([table] if table.row_count else []), *lines(ending.result, ending.verdict, ending.failures))
    if ending.suite is not None:
        show(f"figures: {ending.folder}", f"suite: {ending.suite}; fer-bench run takes it, with fresh seeds")
