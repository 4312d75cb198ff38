"""Figures, intervals and paired tests from labels (N,) and probabilities (N, C): plain arrays in, plain numbers out."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

CLIP = 1e-7  # about the smallest float16 above zero: a stored 0 costs 16.1 nats and not infinity
BINS = 15
DECIMALS = 6
MOST_ROWS = 10_000  # whose draws are kept: 80 MB
DRAWS = 3999
"""Of every bootstrap, so that the 100th and the 3,900th in order are the 2.5 and 97.5 % points, none in between."""


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
    counts, certainty, share = reliability(right, confidence)
    return float(np.abs(counts * (share - certainty)).sum() / len(right))


def reliability(right: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, mean confidence and accuracy (BINS,) of each bin of confidence; both are 0 in an empty bin."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    certainty, share = (np.bincount(bins, weights=values, minlength=BINS) for values in (confidence, right))
    return counts, certainty / np.maximum(counts, 1), share / np.maximum(counts, 1)


def wilson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of the accuracy ``correct / n``."""
    p, z = correct / n, NormalDist().inv_cdf((1 + level) / 2)
    middle = p + z * z / (2 * n)
    half = z * (p * (1 - p) / n + (z / (2 * n)) ** 2) ** 0.5
    scale = 1 + z * z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def newcombe(correct_a: int, n_a: int, correct_b: int, n_b: int) -> tuple[float, float, float]:
    """Accuracy on sample a minus that on an independent sample b, and its 95 % interval.

    Newcombe's hybrid score interval (1998, method 10), from the Wilson interval of each.
    """
    a, b = correct_a / n_a, correct_b / n_b
    (low_a, high_a), (low_b, high_b) = wilson(correct_a, n_a), wilson(correct_b, n_b)
    below, above = np.hypot(a - low_a, high_b - b), np.hypot(high_a - a, b - low_b)
    return a - b, float(a - b - below), float(a - b + above)


def standard_error(share: float, n: int) -> float:
    """Standard error of a share among ``n`` rows, from the sampling of the rows alone."""
    return float((share * (1 - share) / n) ** 0.5)


def draws(n: int, number: int = DRAWS, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield bootstrap draws of n rows as running counts (n + 1,): entry k is how often the first k rows were taken.

    They are made of the raw bits of PCG64, which numpy keeps from version to version, as it does not keep the streams
    of its distributions.
    """
    bits = np.random.PCG64(seed)
    for _ in range(number):
        taken = ((bits.random_raw(n) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)  # uniform over 0..n-1
        yield np.concatenate([[0], np.bincount(taken.astype(np.intp), minlength=n).cumsum()])


@lru_cache(maxsize=2)
def resamples(n: int) -> np.ndarray:
    """All draws of n rows as one table (n + 1, DRAWS), in the smallest type that holds n."""
    table = np.empty((DRAWS, n + 1), dtype=np.min_scalar_type(n))
    for row, draw in zip(table, draws(n), strict=True):
        row[:] = draw
    table = np.ascontiguousarray(table.T)
    table.flags.writeable = False
    return table


def resampled(counts: np.ndarray) -> np.ndarray:
    """Counts (K,) of K outcomes -> unsigned counts (K, DRAWS) in each draw; means over seeds are rounded.

    Rows with the same outcome may stand together, so how many of them a draw holds is the difference of two running
    counts: one table serves every statistic of so many rows at the price of a look-up.
    """
    edges = np.rint(np.concatenate([[0], np.cumsum(counts)])).astype(np.int64)
    n = int(edges[-1])
    if n > MOST_ROWS:
        return np.diff(np.stack([draw[edges] for draw in draws(n)], axis=1).astype(np.min_scalar_type(n)), axis=0)
    return np.diff(resamples(n)[edges], axis=0)


def macro_f1_interval(confusion: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of macro-F1, from a confusion matrix (C, C) of counts."""
    drawn = resampled(np.ravel(confusion)).reshape(*np.shape(confusion), DRAWS)
    given, true = (drawn.sum(axis=axis, dtype=drawn.dtype) for axis in (0, 1))  # (C, DRAWS)
    both = np.maximum(given.astype(np.float64) + true, 1)
    f1 = 2 * np.einsum("ccd->cd", drawn) / both
    return _percentiles(f1.mean(axis=0))


def recall_intervals(confusion: np.ndarray) -> list[tuple[float, float]]:
    """95 % interval of each class's recall, from a confusion matrix (C, C) of counts; (nan, nan) without rows.

    A percentile bootstrap where some of a class are right and some wrong. Where none or all are, every draw is alike
    and would claim certainty, so that interval is Wilson's.
    """
    confusion = np.asarray(confusion)
    support, hits = confusion.sum(axis=1), np.diagonal(confusion)
    outcomes = np.stack([hits, support - hits], axis=1)  # (C, 2)
    drawn = resampled(outcomes.ravel()).reshape(len(hits), 2, DRAWS)
    present = drawn.sum(axis=1)
    shares = [right[total > 0] / total[total > 0] for right, total in zip(drawn[:, 0], present, strict=True)]
    return [_recall_interval(*found) for found in zip(shares, hits, support, strict=True)]


def _recall_interval(drawn: np.ndarray, hits: float, n: float) -> tuple[float, float]:
    """Interval of ``hits`` in ``n`` rows, from the shares that were drawn (at most DRAWS,)."""
    if not n:
        return np.nan, np.nan
    return _percentiles(drawn) if 0 < hits < n else wilson(int(hits), int(n))


def paired_bootstrap(right_a: np.ndarray, right_b: np.ndarray) -> tuple[float, float, float]:
    """Accuracy of a minus that of b, and its 95 % percentile interval over rows drawn again with replacement.

    A row can only be won, lost or tied, so three counts tell all of a draw. That of b minus a has the other signs.
    """
    n = len(right_a)
    won, lost = _discordant(right_a, right_b)
    if won < lost:
        return _negated(paired_bootstrap(right_b, right_a))
    drawn_won, drawn_lost, _ = resampled(np.array([won, lost, n - won - lost]))
    low, high = _percentiles(drawn_won.astype(np.int64) - drawn_lost)
    return (won - lost) / n, low / n, high / n


def _negated(found: tuple[float, float, float]) -> tuple[float, float, float]:
    difference, low, high = found
    return -difference, -high, -low


def _percentiles(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of draws, which are fewer than ``DRAWS`` where a statistic is not defined in some."""
    tail = round(0.025 * (len(draws) + 1))
    ranks = [max(tail - 1, 0), min(len(draws) - tail, len(draws) - 1)]
    ordered = np.partition(draws, ranks)
    return float(ordered[ranks[0]]), float(ordered[ranks[1]])


def mcnemar_exact(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Two-sided p value of the exact McNemar test, from two (N,) masks of right answers to the same rows."""
    return float(sign_test(*_discordant(right_a, right_b)))


def sign_test(won: Any, lost: Any) -> Any:
    """Two-sided p value of ``won`` against ``lost`` under even odds, 1 where both are 0; counts or arrays of counts."""
    from scipy.special import betainc

    fewer, more = np.minimum(won, lost), np.maximum(won, lost)
    tail = betainc(np.maximum(more, 1), fewer + 1, 0.5)  # of a binomial: at most ``fewer`` of both together
    return np.where(more > 0, np.minimum(1.0, 2 * tail), 1.0)


def paired_means(after: np.ndarray, before: np.ndarray) -> tuple[float, float, float]:
    """Mean accuracy of R predictions minus that of R others, masks (R, N) in pairs, and its 95 % interval over images.

    The R differences of an image (seeds, or rows) stay together when rows are drawn again, so the interval says
    nothing of how other seeds would differ. With R = 1 it is ``paired_bootstrap``. That of before minus after has the
    other signs.
    """
    if len(after) == 1:
        return paired_bootstrap(after[0], before[0])
    totals = _totals(after, before)
    if totals.sum() < 0:
        return _negated(paired_means(before, after))
    values, counts = np.unique(totals, return_counts=True)
    n = counts.sum()
    low, high = _percentiles(values @ resampled(counts).astype(np.int64))
    images = float(n * len(after))
    return float(counts @ values) / images, low / images, high / images


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
    return holm_array(np.asarray(ps, dtype=np.float64)).tolist()


def holm_array(p: np.ndarray) -> np.ndarray:
    """Holm's correction of many p values (K,)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def _discordant(right_a: np.ndarray, right_b: np.ndarray) -> tuple[int, int]:
    """Count the rows that only a, and only b, got right."""
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"masks of right answers must be (N,) and equal in length; got {a.shape}, {b.shape}")
    return int((a & ~b).sum()), int((b & ~a).sum())


def _plain(value: Any) -> Any:
    """Return numpy scalars and arrays as rounded Python numbers and lists."""
    return value if isinstance(value, int) else np.round(np.asarray(value), DECIMALS).tolist()
