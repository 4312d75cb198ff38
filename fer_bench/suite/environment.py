"""What a record notes of the machine and the code that made it, torch left out."""

import contextlib
import functools
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np

import fer_bench


@functools.cache
def software() -> dict[str, str | int | bool | None]:
    """Versions and commit."""
    commit, dirty = _git_state()
    return {
        "fer_bench": fer_bench.__version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def combining() -> dict[str, str | int | bool | None]:
    """What an ensemble was made with: it needs no torch, whichever command builds it."""
    return software() | {"scipy": version("scipy"), "scikit-learn": version("scikit-learn"), "hardware": processor()}


def _git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether its code differs; None when installed."""
    folder = Path(fer_bench.__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if git("ls-files", "__init__.py"):
            return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain", "--", ".").strip())
    return None, None


def processor() -> str:
    """The processor in words, such as ``2-core AMD EPYC``."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{os.cpu_count()}-core {name}"
