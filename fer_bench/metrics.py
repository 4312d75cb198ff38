"""Figures, intervals and paired tests from labels (N,) and probabilities (N, C): plain arrays in, plain numbers out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

CLIP = 1e-7  # about the smallest float16 above zero: a stored 0 costs 16.1 nats and not infinity
BINS = 15
DECIMALS = 6


def figures(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """All figures of one prediction, ready for JSON and rounded to 6 decimals.

    ``labels`` is (N,) in 0..C-1 and ``probabilities`` (N, C), float16 allowed: it is taken to float64 and each row
    divided by its sum. Ties go to the lower class. A class that is never predicted has precision 0, one that is absent
    from ``labels`` recall 0; macro-F1 is the mean over all C classes, balanced accuracy over those present.
    """
    labels = np.asarray(labels).astype(np.int64)
    rows = normalised(labels, probabilities)
    ranked = np.argsort(-rows, axis=1, kind="stable")
    right = ranked[:, 0] == labels
    values = {
        "n": len(labels),
        "correct": int(right.sum()),
        "accuracy": right.mean(),
        **class_figures(labels, ranked[:, 0], rows.shape[1]),
        "nll": negative_log_likelihood(labels, rows),
        "ece": calibration_error(right, rows.max(axis=1)),
        "top2": (ranked[:, :2] == labels[:, None]).any(axis=1).mean(),
    }
    return {name: _plain(value) for name, value in values.items()}


def normalised(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the probabilities as float64 (N, C) with rows that sum to 1; shapes that do not fit are a ValueError."""
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or not len(rows):
        raise ValueError(f"labels must be (N,) and probabilities (N, C) with N > 0; got {labels.shape}, {rows.shape}")
    return rows / rows.sum(axis=1, keepdims=True)


def class_figures(labels: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, Any]:
    """Precision, recall and F1 of each class, their means, and the confusion matrix (rows are the truth), as counts."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    every = list(range(classes))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    return {
        "balanced_accuracy": recall[support > 0].mean(),
        "macro_f1": f1.mean(),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "confusion": confusion_matrix(labels, predicted, labels=every),
    }


def negative_log_likelihood(labels: np.ndarray, rows: np.ndarray) -> float:
    """Mean of -ln p(label) in nats; p is clipped at 1e-7."""
    true = rows[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(true, CLIP, None)).mean())


def calibration_error(right: np.ndarray, confidence: np.ndarray) -> float:
    """Expected calibration error over 15 bins of equal width, open below and closed above (Guo et al., 2017)."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gap = np.bincount(bins, weights=right - confidence, minlength=BINS)  # a bin's size times (accuracy - confidence)
    return float(np.abs(gap).sum() / len(right))


def wilson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of the accuracy ``correct / n``."""
    from scipy.stats import binomtest

    interval = binomtest(int(correct), int(n)).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Two-sided p value of the exact McNemar test, from two (N,) masks of right answers to the same rows."""
    from scipy.stats import binomtest

    only_a, only_b = _discordant(right_a, right_b)
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_bootstrap(
    right_a: np.ndarray, right_b: np.ndarray, seed: int = 0, draws: int = 10_000
) -> tuple[float, float, float]:
    """Accuracy of a minus that of b, and its 95 % percentile interval over rows drawn again with replacement.

    A row can only be won, lost or tied, so a draw of N rows is one multinomial draw of three counts: the same
    distribution as drawing the rows, at a thousandth of the work.
    """
    n = len(right_a)
    won, lost = _discordant(right_a, right_b)
    counts = np.random.default_rng(seed).multinomial(n, [won / n, lost / n, (n - won - lost) / n], size=draws)
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n, [0.025, 0.975])
    return (won - lost) / n, float(low), float(high)


def paired_means(after: np.ndarray, before: np.ndarray) -> tuple[float, float, float]:
    """Mean accuracy of R predictions minus that of R others, masks (R, N) in pairs, and its 95 % interval over images.

    The R differences of an image (seeds, or rows) stay together when rows are drawn again, so the interval says
    nothing of how other seeds would differ. With R = 1 it is ``paired_bootstrap``.
    """
    if len(after) == 1:
        return paired_bootstrap(after[0], before[0])
    values, counts = np.unique(_totals(after, before), return_counts=True)
    n = counts.sum()
    drawn = np.random.default_rng(0).multinomial(n, counts / n, size=10_000) @ values / (n * len(after))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(counts @ values) / float(n * len(after)), float(low), float(high)


def sign_flip_p(after: np.ndarray, before: np.ndarray) -> float:
    """Two-sided p value of the exact test that flips the sign of each image's summed difference, from masks (R, N).

    With R = 1 it is the exact McNemar test. Else the sum over images is one of +-k for each image with |difference| k,
    whose distribution follows from its characteristic function, the product of cos(k t), by a Fourier transform.
    """
    if len(after) == 1:
        return mcnemar_exact(after[0], before[0])
    totals = _totals(after, before)
    sizes, counts = np.unique(np.abs(totals), return_counts=True)
    reach = int(sizes @ counts)
    angles = 2 * np.pi * np.arange(2 * reach + 1) / (2 * reach + 1)
    phi = np.prod([np.cos(size * angles) ** count for size, count in zip(sizes, counts, strict=True)], axis=0)
    pmf = np.roll(np.fft.fft(phi).real, reach) / len(angles)  # index s + reach holds P(sum = s)
    far = np.abs(np.arange(-reach, reach + 1)) >= abs(int(totals.sum()))
    return float(np.clip(pmf[far].sum(), 0.0, 1.0))


def _totals(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Sum over the R pairs of masks (R, N) of right answers, after minus before: (N,) whole numbers."""
    if after.shape != before.shape or after.ndim != 2 or not after.size:
        raise ValueError(f"masks of right answers must be (R, N) and equal in shape; got {after.shape}, {before.shape}")
    return after.sum(axis=0, dtype=np.int64) - before.sum(axis=0, dtype=np.int64)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p values in the order given, each valid against the family-wise level."""
    p = np.asarray(ps, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


def _discordant(right_a: np.ndarray, right_b: np.ndarray) -> tuple[int, int]:
    """Count the rows that only a, and only b, got right."""
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"masks of right answers must be (N,) and equal in length; got {a.shape}, {b.shape}")
    return int((a & ~b).sum()), int((b & ~a).sum())


def _plain(value: Any) -> Any:
    """Return numpy scalars and arrays as rounded Python numbers and lists."""
    return value if isinstance(value, int) else np.round(np.asarray(value), DECIMALS).tolist()
