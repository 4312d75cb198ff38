"""Whose turn it is: one process at a time trains a run, also where several work on one suite."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fer_bench.files import locked


@dataclass(frozen=True)
class Other:
    """Another process that is at a run."""

    pid: int | None  # None where it has not said so yet

    def __str__(self) -> str:
        """Say who it is."""
        return "another fer-bench process is at it" + (f" (pid {self.pid})" if self.pid else "")


@contextlib.contextmanager
def claimed(runs_dir: Path, key: str) -> Iterator[Other | None]:
    """Claim a training by its id as long as the block lasts; gives the other process that has it, if any.

    The claim is an advisory lock on ``runs/locks/KEY``, so it ends with the process. The file stays: taking it away
    would let two processes lock two files of one name.
    """
    path = runs_dir / "locks" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with locked(path) as mine:
        if mine:
            path.write_text(str(os.getpid()))
        yield None if mine else Other(_pid(path))


def _pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
