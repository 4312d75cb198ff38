"""What moves a figure besides the model: the seed of training, the sample of test images, choices by validation."""

from collections.abc import Sequence

import numpy as np

from fer_bench import metrics
from fer_bench.leaderboard.markdown import percent, points, points_interval, shelved, table
from fer_bench.leaderboard.rows import TEST, VALIDATION, Board, Row, title


def section(board: Board) -> str:
    """Standard deviation over seeds beside sampling error, then the gap between validation and test."""
    return "\n\n".join(part for part in (seeds(board.fair), optimism(board.fair)) if part)


def seeds(rows: Sequence[Row]) -> str:
    """Both kinds of noise in the rows with several seeds; one sentence where trained rows have none, "" without any."""
    several = [row for row in rows if len(row.seeds) > 1]
    if not several:
        trained = any("history" in row.record for row in rows)
        said = "Every trained row has one seed: how far another run of the same setting falls is not measured here."
        return said if trained else ""
    head = ["name", "seeds", "accuracy %", "sd over seeds, points", "sampling error, points"]
    notes = (
        "*Sd over seeds* is how far one more training run of the same setting falls; of two seeds it says little. "
        "*Sampling error* is the standard "
        f"error of an accuracy on {len(several[0].labels):,} images, which more seeds do not lower. The paired tests "
        "hold for the declared (lowest) seed; a claim about a setting has to exceed both."
    )
    return f"{shelved('Seeds', table(head, [_seeds(row) for row in several], 'lrrrr'))}\n\n{notes}"


def _seeds(row: Row) -> list[str]:
    values = row.values("accuracy")
    mean = float(np.mean(values))
    return [
        title(row),
        str(len(values)),
        percent(mean),
        f"{100 * np.std(values, ddof=1):.2f}",
        f"{100 * metrics.standard_error(mean, len(row.labels)):.2f}",
    ]


def optimism(rows: Sequence[Row]) -> str:
    """Validation minus test, for the rows that have both; "" without any."""
    both = [row for row in rows if row.values("accuracy", VALIDATION)]
    if not both:
        return ""
    head = ["name", f"{VALIDATION} %", f"{TEST} %", "difference, points [95 %]"]
    gaps = [_gap(row) for row in both]
    lines = [
        [title(row), percent(row.mean("accuracy", VALIDATION)), percent(row.mean("accuracy")), points_interval(*gap)]
        for row, gap in zip(both, gaps, strict=True)
    ]
    notes = (
        f"{VALIDATION} minus {TEST}: two independent samples, with Newcombe's 95 % interval. A plus is optimism: what "
        f"was chosen on {VALIDATION} looks better there than on new images. An interval that holds 0 shows none. "
        f"{_common(gaps)}What is fitted on {VALIDATION} is cross-fitted there, so its figure is of images that it was "
        "not fitted to."
    )
    return f"{shelved(f'{VALIDATION} minus {TEST}', table(head, lines, 'lrrl'))}\n\n{notes}"


def _gap(row: Row) -> tuple[float, float, float]:
    """Mean right answers of the seeds on either part, as whole images."""
    correct = [round(row.mean("correct", part) or 0) for part in (VALIDATION, TEST)]
    public, private = (row.record["figures"][part][row.headline]["n"] for part in (VALIDATION, TEST))
    return metrics.newcombe(correct[0], public, correct[1], private)


def _common(gaps: Sequence[tuple[float, float, float]]) -> str:
    if len(gaps) == 1:
        return ""
    middle = float(np.median([gap[0] for gap in gaps]))
    return (
        f"All rows share the images: the median difference, {points(middle)}, tells how much easier or harder one part "
        "is, so a row is to be held against that and not against 0. "
    )
