import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fer_bench import files

HOLD = """
import sys, time
from pathlib import Path
from fer_bench.files import locked
with locked(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


def test_atomic_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.json"
    files.write_atomic(path, b"old")
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, step):
    path = tmp_path / "b.json"
    files.write_atomic(path, b"old")

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="no space left"):
        files.write_atomic(path, b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"b.json": b"old"}


def test_digests_of_a_known_text(tmp_path):
    # the "abc" vector of FIPS 180-2
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256_bytes(b"abc") == files.sha256_file(tmp_path / "abc") == expected


def test_canonical_json_is_one_byte_string_for_one_value():
    assert files.canonical_json({"b": [1, 0.1, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,0.1,null]}'
    assert files.canonical_json({"a": 1, "b": 2}) == files.canonical_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.canonical_json(float("nan"))


def test_large_files_are_hashed_whole(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "large").write_bytes(data)
    assert files.sha256_file(tmp_path / "large") == hashlib.sha256(data).hexdigest()


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("FER_BENCH_CACHE_DIR", raising=False)
    assert files.cache_dir() == tmp_path / "fer-bench"
    monkeypatch.setenv("FER_BENCH_CACHE_DIR", str(tmp_path / "own"))
    assert files.cache_dir() == tmp_path / "own"


# ---- locks


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_lock_is_held_by_one_at_a_time(tmp_path, kind):
    path = tmp_path / "it"
    path.mkdir() if kind == "folder" else path.touch()
    with files.locked(path) as first:
        with files.locked(path) as second:
            assert (first, second) == (True, False)
        with files.locked(path, 0.1) as third:
            assert third is False
    with files.locked(path) as again:
        assert again


def test_lock_ends_with_its_process(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])}
    path = tmp_path / "it"
    path.touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], env=environment, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with files.locked(path) as mine:
            assert mine is False
        holder.kill()
        holder.wait()
        with files.locked(path) as mine:
            assert mine


def test_no_lock_is_needed_where_there_is_none(tmp_path, monkeypatch):
    with files.locked(tmp_path / "absent") as mine:
        assert mine
    import fcntl

    def none(handle, operation):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with files.locked(tmp_path) as one, files.locked(tmp_path) as two:
        assert one
        assert two
