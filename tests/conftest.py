import functools
import os
from pathlib import Path

import pytest
import torch

from fer_bench import cli, toyfaces
from fer_bench.data import Faces
from fer_bench.train import machine

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_BENCH_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_to_choose():
    """Runs compared bit by bit must not choose threads, precision and micro-batch by how busy the machine is.

    To the probe all ways are equally fast, so it takes the plain one. Other processes have their own probe.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        patch.setattr(machine, "timed", lambda network, way: machine.Timing(1.0, 1.0))
        yield


@pytest.fixture(scope="session")
def toy() -> Faces:
    """A small toy data set; read it only."""
    return toyfaces.load(seed=3, counts=(56, 21, 21))


@pytest.fixture(scope="module")
def drawn_once():
    """Draw the toy faces once for all tests of a module that ask for this, and not once for each run of a suite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toyfaces, "load", functools.cache(toyfaces.load))
        yield


@pytest.fixture
def leaderboard_command(monkeypatch, capsys):
    """Call ``fer-bench leaderboard`` with words; returns exit code, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["fer-bench", "leaderboard", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """The folder of the real FER2013; tests that need it are skipped where there is none."""
    given = os.environ.get("FER_BENCH_DATA_DIR")
    path = Path(given) if given else SHARED / "data" / "fer2013"
    if not path.exists():
        pytest.skip("needs the real FER2013: set FER_BENCH_DATA_DIR")
    return path
