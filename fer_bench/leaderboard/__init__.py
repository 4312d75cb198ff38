"""Records and published figures -> ``leaderboard.md`` and SVG figures, and the check that proves them.

A board is a folder with ``results``, ``predictions`` and, for FER2013, ``published.yaml``. The page is a pure function
of these files: no clock, no host, fixed decimals, a total order, a digest of its inputs in the head. ``rows`` reads
the records and computes across rows, ``tables``, ``literature`` and ``figures`` turn that into markdown and SVG,
``page`` puts the sections in order, ``proof`` recomputes everything. For a pull request ``gitdiff`` says what changed,
``changes`` what may, and ``pull`` sums it up.
"""

import gc
import os
from pathlib import Path
from typing import Any

from fer_bench.errors import UserError
from fer_bench.files import locked, write_atomic
from fer_bench.leaderboard import changes, figures, gitdiff, page, proof, pull, rows
from fer_bench.leaderboard.proof import Examined
from fer_bench.leaderboard.pull import Review

PAGE = "leaderboard.md"
LOCK_SECONDS = 60.0  # then a board is rendered all the same: each file by itself appears whole

__all__ = ["PAGE", "board_file", "check", "render", "review", "write"]


def board_file(board: Path) -> Path:
    """Where a board's page is: beside the folder ``benchmark``, inside any other."""
    return (board.parent if board.name == "benchmark" else board) / PAGE


def render(board: Path, target: Path | None = None) -> dict[str, bytes]:
    """Return the page as ``leaderboard.md`` and each figure as ``figures/NAME.svg``, which belongs below ``board``.

    ``board/published.yaml`` gives the published tables where it exists and no record is of toy faces. Links lead from
    ``target`` (default: ``board_file(board)``) to the board's folder. A folder without records is an empty board; a
    record or published file that cannot be read is a UserError.
    """
    _, text, plans = _rendered(board, target or board_file(board))
    return {PAGE: text, **{f"figures/{name}": figures.draw(plan) for name, plan in plans.items()}}


def _rendered(board: Path, target: Path) -> tuple[rows.Board, bytes, dict[str, dict[str, Any]]]:
    """The rows, the page and what each figure shows; whatever cannot be rendered is a UserError."""
    collects = gc.isenabled()
    gc.disable()  # records are many objects that all stay: to look for cycles among them takes a twentieth of the time
    try:
        content = rows.read(board)
        return content, page.text(content, _prefix(board, target)).encode(), figures.plans(content)
    except UserError:
        raise
    except Exception as error:  # a record that keeps the schema and does not hold breaks a page in any way
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{board}: cannot be rendered ({what}); `fer-bench leaderboard --check` names the record that does not hold"
        ) from error
    finally:
        if collects:
            gc.enable()


def write(board: Path, target: Path | None = None) -> Path:
    """Render the page to ``target`` and the figures to ``board/figures``, drop figures of old boards; the page's path.

    A figure that shows the same data already is kept, so another version of matplotlib changes no file. Two processes
    that render one board do it one after the other.
    """
    target = target or board_file(board)
    with locked(board, LOCK_SECONDS):
        _, text, plans = _rendered(board, target)
        for name, plan in plans.items():
            path = board / "figures" / name
            if not (path.is_file() and figures.is_current(path.read_bytes(), plan)):
                write_atomic(path, figures.draw(plan))
        for path in proof.stray_figures(board, plans):
            if not path.is_dir():
                path.unlink(missing_ok=True)
        write_atomic(target, text)
    return target


def check(board: Path, target: Path | None = None) -> list[str]:
    """List what is wrong with a board, one line each, the page's differences as lines of a unified diff.

    Every record is verified from its files; labels, seeds and ensembles are compared among records; the page is
    rendered in memory and compared byte by byte, figures by the digests inside them (see ``figures``).
    """
    found = examine(board, target or board_file(board))
    return [*found.problems, *found.difference]


def examine(board: Path, target: Path) -> Examined:
    """Do what ``check`` does, and keep apart what it found."""
    problems = proof.readable(board)
    try:
        content, text, plans = _rendered(board, target)
    except UserError as error:
        known = problems and (error.__cause__ or any(str(error) in problem for problem in problems))
        return Examined((*problems, *([] if known else [str(error)])))
    problems += proof.file_problems(board, target, text, plans)
    return Examined(tuple(problems), tuple(proof.page_difference(target, text)), content)


def review(board: Path, target: Path, ref: str) -> Review:
    """Do what ``check`` does, and judge what the working tree changes against the merge base of HEAD and ``ref``.

    Raises:
        UserError: git cannot tell (see ``gitdiff.against``).
    """
    diff = gitdiff.against(board, ref)
    return pull.review(examine(board, target), changes.judge(board, diff), diff)


def _prefix(board: Path, target: Path) -> str:
    relative = Path(os.path.relpath(board.resolve(), target.resolve().parent)).as_posix()
    return "" if relative == "." else f"{relative}/"
