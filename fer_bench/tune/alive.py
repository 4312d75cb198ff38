"""Is the worker of a trial still there? A lock file for each running trial, which the kernel frees when it dies.

It answers at once and for certain, but only for this boot of this machine: file names carry the boot's id, so a folder
that machines share does no harm. For other machines there are heartbeats.
"""

import contextlib
import fcntl
import platform
from collections.abc import Iterator
from pathlib import Path


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


def _file(folder: Path, number: int) -> Path:
    return folder / f"{_boot()}.{number}"


@contextlib.contextmanager
def mark(folder: Path, number: int) -> Iterator[None]:
    """Say that this process works on a trial, until the block ends or the process does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _file(folder, number)
    with open(path, "ab") as file:
        with contextlib.suppress(OSError):  # a file system without locks: heartbeats tell
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_alive(folder: Path, number: int) -> bool | None:
    """Whether the worker of a trial lives; None where that cannot be told, as of other machines and earlier starts."""
    try:
        with open(_file(folder, number), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or no locks
        return None
    return False
