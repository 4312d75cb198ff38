"""Where a study lives: an SQLite file, a PostgreSQL server, or a journal file; opened, locked, mended.

Whoever claims a trial holds the study's lock. The kernel or the server frees it when its holder dies, so a killed
worker never leaves a lock behind.
"""

import contextlib
import fcntl
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from urllib.parse import unquote, urlsplit

from fer_bench.errors import UserError
from fer_bench.files import sha256_bytes

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

SQLITE, JOURNAL = (".db", ".sqlite", ".sqlite3"), (".journal", ".log", ".jsonl")
NETWORK = {
    *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "sshfs", "s3fs", "9p", "afs"),
    *("ceph", "lustre", "gpfs", "beegfs", "glusterfs"),
}
"""File systems that several machines share, some of them through FUSE; SQLite's locks do not hold on them."""
BEAT, GRACE = 60, 300
"""Seconds between two heartbeats, and without one before a worker on another machine counts as dead."""
BUSY_SECONDS = 60
APPEND, CHUNK = ".append.lock", 65_536
FORMS = "a file such as runs/tune/tune.db, sqlite:///FILE, postgresql://USER@HOST/DATABASE, or journal:FILE"


@dataclass(frozen=True)
class Place:
    """A storage's address; ``address`` may hold a password and is never shown, ``shown`` is what people read."""

    kind: Literal["sqlite", "postgresql", "journal"]
    shown: str
    address: str = field(repr=False)
    path: Path | None = None
    """The file, None for a server."""


def parse(text: str) -> Place:
    """Read ``--storage``.

    Raises:
        UserError: an address of another kind, SQLite on a network file system, or PostgreSQL without its driver.
    """
    scheme = text.split(":", 1)[0].lower() if ":" in text else ""
    if scheme.split("+")[0] in ("postgresql", "postgres"):
        return _server(text)
    if scheme == "sqlite":
        return _sqlite(Path(text.partition(":///")[2]))
    if scheme == "journal":
        return _journal(Path(text.split(":", 1)[1]))
    if "://" in text:
        raise UserError(f"--storage: {scheme or 'this'}:// is not supported; use {FORMS}")
    path = Path(text).expanduser()
    if path.suffix in JOURNAL:
        return _journal(path)
    if path.suffix in SQLITE:
        return _sqlite(path)
    raise UserError(f"--storage {text}: cannot tell what this is; use {FORMS}")


def _server(text: str) -> Place:
    """PostgreSQL through psycopg 3, whichever driver SQLAlchemy would take."""
    if importlib.util.find_spec("psycopg") is None:
        raise UserError("--storage: PostgreSQL needs a driver; pip install 'psycopg[binary]'")
    try:
        parts = urlsplit(text)
        shown = f"postgresql://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":
            raise ValueError("a password with / ? or # has ended the host early")
    except ValueError:
        raise UserError("--storage: not a valid postgresql:// address; its special characters need %XX") from None
    if not parts.path.strip("/"):
        raise UserError(f"--storage {shown}: names no database; use postgresql://USER@HOST/DATABASE")
    return Place("postgresql", shown, f"postgresql+psycopg://{text.split('://', 1)[1]}")


def _sqlite(path: Path) -> Place:
    if path.name in ("", ":memory:"):
        raise UserError("--storage: SQLite needs a file, such as sqlite:///runs/tune/tune.db")
    kind = file_system(path)
    if kind is not None and kind.removeprefix("fuse.") in NETWORK:
        raise UserError(
            f"--storage {path}: SQLite cannot be trusted on a network file system ({kind}); use a local disk, "
            "or postgresql:// for several machines"
        )
    return Place("sqlite", str(path), f"sqlite:///{path}", path)


def _journal(path: Path) -> Place:
    if not path.name:
        raise UserError("--storage: a journal needs a file, such as journal:runs/tune/tune.journal")
    return Place("journal", str(path), str(path), path)


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system that a path lies on, such as ext4 or nfs4; None where the system does not say."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    whole, best, kind = path.expanduser().resolve(), -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(before.split(" ")[4].replace("\\040", " "))
        if whole.is_relative_to(point) and len(point.parents) >= best:
            best, kind = len(point.parents), after.split(" ")[0]
    return kind


def open_storage(
    place: Place,
    *,
    beat: int = BEAT,
    grace: int = GRACE,
    on_stale: "Callable[[Study, FrozenTrial], None] | None" = None,
) -> "BaseStorage":
    """Open a storage, made first where there is none; the caller closes it with ``close``.

    ``on_stale`` is told of each trial that failed because its heartbeat stopped.

    Raises:
        UserError: a file or server that cannot be used, with the reason and without the password.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if place.path is not None:
            place.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(place, "open"):
            return _journal_storage(place) if place.kind == "journal" else _database(place, beat, grace, on_stale)
    except (SQLAlchemyError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"--storage {place.shown}: cannot be used ({reason(place, error)})") from None


def _database(place: Place, beat: int, grace: int, on_stale: Any) -> "BaseStorage":
    from optuna.storages import RDBStorage

    options: dict[str, Any] = {"pool_pre_ping": True}
    if place.kind == "sqlite":
        options = {"connect_args": {"timeout": BUSY_SECONDS}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the heartbeat is called experimental
        return RDBStorage(
            place.address,
            engine_kwargs=options,
            heartbeat_interval=beat,
            grace_period=grace,
            heartbeat_stale_trial_callback=on_stale,
        )


def close(storage: "BaseStorage") -> None:
    """Give connections back."""
    storage.remove_session()
    engine = getattr(storage, "engine", None)
    if engine is not None:
        engine.dispose()


def outages() -> tuple[type[Exception], ...]:
    """What is raised where a storage does not answer, which may pass."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import InterfaceError, OperationalError

    return StorageInternalError, InterfaceError, OperationalError


def reason(place: Place, error: BaseException) -> str:
    """The first line of an exception, without the storage's password."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    text = text.removeprefix("(psycopg.OperationalError) ").removeprefix("(sqlite3.OperationalError) ")
    password = urlsplit(place.address).password if place.kind == "postgresql" else None
    for form in {password, unquote(password)} if password else ():
        text = text.replace(form, "***")
    return text


@contextlib.contextmanager
def locked(place: Place, name: str) -> Iterator[None]:
    """Hold the lock of a study (a server has one for each ``name``) against all processes that share the storage."""
    with _file_lock(place.path, ".lock") if place.path else _server_lock(place, name):
        yield


@contextlib.contextmanager
def _file_lock(path: Path, suffix: str) -> Iterator[None]:
    """A lock beside a file, which the kernel frees with the process."""
    with open(path.with_name(path.name + suffix), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _server_lock(place: Place, name: str) -> Iterator[None]:
    """An advisory lock, which the server frees with the connection."""
    from sqlalchemy import create_engine, pool, text

    key = int.from_bytes(bytes.fromhex(sha256_bytes(f"fer-bench tune {name}".encode())[:16]), signed=True)
    engine = create_engine(place.address, poolclass=pool.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"SET lock_timeout = '{BUSY_SECONDS}s'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        yield


def _journal_storage(place: Place) -> "BaseStorage":
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = Path(place.address)

    class Lock:
        """Dies with its holder, and mends a torn line before anything is written behind it."""

        def acquire(self) -> bool:
            held = _file_lock(path, APPEND)
            held.__enter__()
            self.held = held
            mend(path)
            return True

        def release(self) -> None:
            self.held.__exit__(None, None, None)

    with _file_lock(path, APPEND):
        mend(path)
    backend = JournalFileBackend(str(path), lock_obj=Lock())  # type: ignore[arg-type]  # the base class is private
    return JournalStorage(backend)


def mend(path: Path) -> int:
    """Cut a journal to its last whole line, since a killed writer may have left a torn one; returns the bytes cut."""
    if not path.is_file():
        return 0
    with open(path, "r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end and not _ends_a_line(file, end):
            start = max(0, end - CHUNK)
            file.seek(start)
            end = start + file.read(end - start).rfind(b"\n") + 1
        if end < size:
            file.truncate(end)
        return size - end


def _ends_a_line(file: BinaryIO, end: int) -> bool:
    file.seek(end - 1)
    return file.read(1) == b"\n"
