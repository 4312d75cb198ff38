"""Bytes on disk: atomic writes, locks, digests and canonical JSON, for every module that keeps something."""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that a reader sees the old file or the new one, never half of either, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: Path, wait: float = 0.0) -> Iterator[bool]:
    """Hold the advisory lock of a file or folder; False where another process has it for longer than ``wait`` seconds.

    The system releases a lock when its process ends, however that ends. Where the path, the system or its file system
    has no locks there is nobody to wait for, and the answer is True.
    """
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # NFS locks only what could be written
    except OSError:
        handle = None
    try:
        yield handle is None or _lock(handle, wait)
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle: int, wait: float) -> bool:
    try:
        import fcntl
    except ImportError:  # not on this system
        return True
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        except OSError:  # not on this file system
            return True


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recall(path: Path) -> dict[str, Any]:
    """What ``remember`` has kept in a file; nothing where it is absent or damaged."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(found := json.loads(path.read_bytes()), dict):
            return found
    return {}


def remember(path: Path, key: str, value: Any) -> None:
    """Add a value to a JSON file of the cache; a read-only or full disk remembers nothing and is no error."""
    with contextlib.suppress(OSError):
        write_atomic(path, json.dumps(recall(path) | {key: value}, indent=1, sort_keys=True).encode())


def canonical_json(value: Any) -> bytes:
    """One byte string for one value: sorted keys, no spaces, no NaN; what run ids are hashed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def cache_dir() -> Path:
    """The folder of rebuildable files: ``FER_BENCH_CACHE_DIR``, else fer-bench below the user's cache folder."""
    given = os.environ.get("FER_BENCH_CACHE_DIR")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "fer-bench"
