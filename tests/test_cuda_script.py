"""What `benchmark/cuda.sh train` calls, with an interpreter that only notes it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
STUB = """#!/bin/bash
case "$*" in
-) cat > /dev/null; exit ${ONLINE:-0} ;;
-c*seconds_of*) exec "$REAL" "$@" ;;
-c*) exit 0 ;;
esac
echo "$@" >> "$CALLS"
case "$*" in
*fetch-weights*) exit ${FETCH:-0} ;;
*fer_bench\\ run*) exit ${RUN:-0} ;;
esac
"""
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the script is one of bash")


@pytest.fixture
def call(tmp_path):
    """Call the script in a folder with faces.csv: give its words, get its exit code, its errors and the calls."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(STUB)
    python.chmod(0o755)
    (tmp_path / "faces.csv").touch()

    def go(*words, **env):
        calls.write_text("")
        known = {"PYTHON": str(python), "CALLS": str(calls), "REAL": sys.executable, "PYTHONPATH": str(TOP)}
        script = ["bash", str(TOP / "benchmark" / "cuda.sh"), *words]
        done = subprocess.run(
            script, cwd=tmp_path, env=os.environ | known | env, capture_output=True, text=True, timeout=60, check=False
        )
        made = [line.removeprefix("-m fer_bench ") for line in calls.read_text().splitlines()]
        return done.returncode, done.stderr, made

    return go


def test_train_fetches_trains_and_packs(call, tmp_path):
    """A path is taken from the folder of the call, or else from the top of the checkout."""
    code, _, made = call("train", "faces.csv", "suites/quick.yaml", "5m", JOBS="2")
    assert code == 0
    assert made == [
        "fetch-weights suites/quick.yaml",
        f"run suites/quick.yaml --data-dir {tmp_path / 'faces.csv'} --device cuda --offline --jobs 2 --time-budget 5m",
        "pack --suite suites/quick.yaml --no-failures -o runs/records.zip",
    ]


@pytest.mark.parametrize(
    ("env", "code", "steps"),
    [
        ({"FETCH": "1"}, 0, ["fetch-weights", "run", "pack"]),  # some have no weights
        ({"FETCH": "130"}, 130, ["fetch-weights"]),  # Ctrl-C
        ({"ONLINE": "1"}, 0, ["run", "pack"]),
        ({"RUN": "1"}, 1, ["fetch-weights", "run", "pack"]),  # some run failed
        ({"RUN": "2"}, 2, ["fetch-weights", "run"]),
    ],
)
def test_what_ends_the_script_and_what_does_not(call, env, code, steps):
    found, _, made = call("train", "faces.csv", **env)
    assert (found, [line.split()[0] for line in made]) == (code, steps)


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        (["train"], {}, "benchmark/cuda.sh train DATA [SUITE] [TIME]"),
        (["train", "faces.csv", "suites/full.yaml", "8m", "more"], {}, "benchmark/cuda.sh train DATA [SUITE] [TIME]"),
        (["train", "nowhere"], {}, "cuda.sh: nowhere: no such data"),
        (["train", "faces.csv", "8m"], {}, "cuda.sh: 8m: no such suite"),
        (["train", "faces.csv", "suites/full.yaml", "8x"], {}, "cuda.sh: 8x: no time above 0"),
        (["train", "faces.csv"], {"JOBS": "0"}, "cuda.sh: JOBS=0: not a whole number above 0"),
    ],
)
def test_a_mistake_is_told_before_anything_is_fetched(call, words, env, said):
    code, err, made = call(*words, **env)
    assert (code, made) == (2, [])
    assert said in err
