"""Time the rendering of a board of synthetic records: ``python benchmark/speed/render.py [--records 1000]``.

The records have the size of real ones (3,589 images a part, two view sets) and are as good as 45 to 75 %. They are made
once and kept in ``--board``; then ``fer-bench leaderboard`` renders them in a process of its own, figures included.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import metrics, records

PARTS = ("PublicTest", "PrivateTest")
VIEWS = ("none", "flip")
ROWS = 3589


def main() -> None:
    """Make what records are missing, drop the figures, render, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1, help="records of one name")
    parser.add_argument("--board", type=Path, default=Path("runs/speed"))
    options = parser.parse_args()
    for index in range(options.records):
        name, seed = f"synthetic-{index // options.seeds:04d}", index % options.seeds
        if records.find(options.board, name, seed) is None:
            records.save(options.board, *synthetic(name, seed))
    for path in (options.board / "figures").glob("*.svg"):
        path.unlink()
    print(f"{options.records} records rendered in {describe(*render(options.board))}")


def render(board: Path) -> tuple[float, float]:
    """Seconds of processor time and of wall time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "fer_bench", "leaderboard", "--board", str(board)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def describe(processor: float, wall: float) -> str:
    """Both times in words; on a busy machine the first is the one to compare."""
    return f"{processor:.2f} s of processor time, {wall:.2f} s in all"


def synthetic(name: str, seed: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A record and its arrays, with a skill of its own."""
    rng = np.random.default_rng([*name.encode(), seed])
    skill = rng.uniform(1.2, 2.4)
    arrays: dict[str, np.ndarray] = {}
    for part in PARTS:
        labels = np.random.default_rng(len(part)).integers(0, 7, ROWS).astype(np.uint8)
        arrays[f"{part}/labels"] = labels
        logits = rng.normal(size=(ROWS, 7)) + skill * np.eye(7)[labels]
        for view in VIEWS:
            p = np.exp(logits + 0.2 * rng.normal(size=(ROWS, 7)))
            arrays[f"{part}/{view}"] = p / p.sum(axis=1, keepdims=True)
    return record_of(name, seed, arrays), arrays


def record_of(name: str, seed: int, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The record of a member that gave these arrays."""
    identity = {"kind": "member", "member": {"name": name}, "seed": seed}
    epoch = {"train_loss": 1.5, "validation_loss": 1.3, "validation_accuracy": 0.5, "learning_rate": 1e-3}
    figures = {
        part: {v: metrics.figures(arrays[f"{part}/labels"], records.as_stored(arrays[f"{part}/{v}"])) for v in VIEWS}
        for part in PARTS
    }
    return {
        "schema": records.SCHEMA,
        "kind": "member",
        "name": name,
        "seed": seed,
        "run_id": records.run_id(identity),
        "identity": identity,
        "protocol": "fer2013-v1",
        "suite": "synthetic",
        "data": {
            "name": "fer2013",
            "digest": "d" * 64,
            "split_digest": "e" * 64,
            "canonical": False,
            "source": "synthetic",
            "skipped": 0,
            "counts": records.WHOLE,
        },
        "environment": {"hardware": "none", "precision": "fp32", "git_dirty": False},
        "timing": {"train_seconds": 1.0},
        "looks": [],
        "views": list(VIEWS),
        "headline": "flip",
        "passes": {"none": 1, "flip": 2},
        "figures": figures,
        "model": {
            "backbone": "synthetic",
            "parameters": 1_000_000,
            "image_size": 48,
            "pretrained": False,
            "weights_origin": None,
            "weights_sha256": None,
        },
        "history": [{"epoch": n, **epoch, "images_per_second": 1.0, "seconds": 1.0} for n in range(1, 9)],
    }


if __name__ == "__main__":
    main()
