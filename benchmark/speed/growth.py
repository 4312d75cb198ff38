"""How the work after training grows: each ratio is that of twice the size over once the size, so 2 is linear."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import leaderboard, metrics, records
from fer_bench.ensemble import fit_logistic, greedy_counts
from measure import Row, Setting, in_turns

IMAGES = 3589
LINEAR = "<= 2.2"
BOARD = Path(__file__).parents[1]


def members_of(count: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (M, N, 7) of members that are right more often than not, and labels (N,)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, images)
    logits = rng.normal(size=(count, images, 7)) + 1.5 * np.eye(7)[labels]
    p = np.exp(logits)
    return p / p.sum(axis=2, keepdims=True), labels


def _doubling(
    name: str, sizes: tuple[int, int], work: Callable[[int], object], aim: str | None, setting: Setting
) -> Row:
    cases = {str(size): (lambda size=size: work(size)) for size in sizes}
    return Row(name, in_turns(cases, setting), str(sizes[1]), str(sizes[0]), aim)


def ensembles(setting: Setting) -> list[Row]:
    """Measure greedy selection over members and steps, and stacking over members."""
    images, few = (200, 4) if setting.is_quick else (IMAGES, 20)
    p, labels = members_of(2 * few, images)

    def greedy(members: int, steps: int) -> None:
        greedy_counts(p[:members], labels, np.random.default_rng(0), bags=5, share=1.0, size=steps, metric="nll")

    return [
        _doubling("greedy selection, members", (few, 2 * few), lambda n: greedy(n, 10), LINEAR, setting),
        _doubling("greedy selection, steps", (10, 20), lambda n: greedy(few, n), LINEAR, setting),
        _doubling(
            "logistic stacking, members", (few, 2 * few), lambda n: fit_logistic(p[:n], labels, 0.03), None, setting
        ),
    ]


def rendering(setting: Setting) -> list[Row]:
    """Measure the page over the number of its records."""
    few = 2 if setting.is_quick else 15
    with tempfile.TemporaryDirectory(prefix="fer-bench-speed-") as name:
        boards = {size: Path(name) / str(size) for size in (few, 2 * few)}
        for size, board in boards.items():
            fill(board, size)
        return [_doubling("leaderboard.md, records", (few, 2 * few), lambda n: page(boards[n]), LINEAR, setting)]


def page(board: Path) -> None:
    """Render the page anew."""
    leaderboard.render(board)


def fill(board: Path, size: int) -> None:
    """Make a board of so many rows out of one committed record and noise."""
    template = next(record for record in records.load_all(BOARD) if record["kind"] == "member")
    stored, rng = records.arrays(BOARD, template), np.random.default_rng(0)
    for i in range(size):
        record, arrays = _noisy(template, stored, f"row-{i}", rng)
        records.save(board, record, arrays)


def _noisy(template: dict[str, Any], stored: dict[str, np.ndarray], name: str, rng: np.random.Generator) -> Any:
    record, arrays = copy.deepcopy(template), dict(stored)
    for key in [key for key in stored if not key.endswith("/labels")]:
        p = stored[key].astype(np.float64) + rng.uniform(0, 0.3, stored[key].shape)
        arrays[key] = records.as_stored(p / p.sum(axis=1, keepdims=True))
    record["identity"]["member"]["train"]["lr"] = float(rng.uniform(1e-4, 1e-3))
    record |= {"name": name, "run_id": records.run_id(record["identity"])}
    for look in record["looks"]:
        look["run_id"] = record["run_id"]
    record["figures"] = {
        part: {
            view: metrics.figures(stored[f"{part}/labels"].astype(np.int64), arrays[f"{part}/{view}"])
            for view in record["views"]
        }
        for part in record["figures"]
    }
    return record, arrays
