"""Memory that a process frees: kept for what comes next, or handed back."""

import contextlib
import ctypes

MMAP_THRESHOLDS = 1 << 30, 1 << 25
"""Bytes; glibc before 2.35 takes no more than the second."""


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of handing it back and clearing it anew for the next array.

    Where it was measured it raised CPU training of small networks by 9 to 36 % and took the decoding of fer2013.csv
    from 3.4 s to 0.6 (benchmark/LOG.md). Returns whether it was possible.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1
        is_taken = any(libc.mallopt(mmap_threshold, size) for size in MMAP_THRESHOLDS)
        return bool(libc.mallopt(trim_threshold, 2**31 - 1)) and is_taken
    except (OSError, AttributeError):
        return False


def release_freed_memory() -> None:
    """Hand back what ``keep_freed_memory`` kept: pieces that steps have cut do not hold the tensors of other work."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
