"""Freed memory, kept or handed back, as glibc of several ages answers."""

import ctypes
from types import SimpleNamespace

import pytest

from fer_bench import allocation

MMAP, TRIM = -3, -1


@pytest.mark.parametrize(("most", "taken"), [(2**31, 1 << 30), (1 << 25, 1 << 25), (0, None)])
def test_the_largest_threshold_that_the_library_takes_is_set(monkeypatch, most, taken):
    held = {}

    def mallopt(kind, size):
        if kind == MMAP and size > most:
            return 0
        held[kind] = size
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert allocation.keep_freed_memory() is (taken is not None)
    assert (held.get(MMAP), held[TRIM]) == (taken, 2**31 - 1)


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_systems_with_another_library_go_on_without(monkeypatch, error):
    def missing(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert allocation.keep_freed_memory() is False
    allocation.release_freed_memory()
