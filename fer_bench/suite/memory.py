"""What a process or its device's allocator holds in memory, now and at most."""

import contextlib
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from fer_bench.allocation import release_freed_memory

OWN = Path("/proc/self")


def reset_peak(device: torch.device) -> None:
    """Forget the peak so far, where the system can: on Linux, and on CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            (OWN / "clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that the device's allocator held, or on the CPU the most that the process occupied."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _own("VmHWM")


def occupied(device: torch.device) -> int:
    """Bytes that the device's allocator, or on the CPU the process, holds now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _own("VmRSS")


def grown(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes that some work takes at most on top of what is held; 0 where the system does not tell.

    What the process has freed and kept is handed back before, or the work would find it there unnoticed.
    """
    release_freed_memory()
    reset_peak(device)
    before = occupied(device)
    work()
    return max(0, peak_memory(device) - before)


def _own(line: str) -> int:
    """A line of /proc/self/status in bytes; getrusage elsewhere, whose peak on Linux includes that of the parent."""
    with contextlib.suppress(OSError):
        values = dict(text.split(":", 1) for text in (OWN / "status").read_text().splitlines())
        if line in values:
            return int(values[line].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
