"""Greedy forward selection with replacement, bagged (Caruana et al., 2004)."""

from collections.abc import Callable

import numpy as np

from fer_bench.ensemble.votes import normalised
from fer_bench.ensemble.weights import true_class

ROWS_A_LOG = 16  # a power of two
ROUNDING = 1e-9

Score = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(evidence of each member, its sum over the picks, number of picks with the next) -> (M,), the lower the better."""


def greedy_counts(
    probabilities: np.ndarray,
    labels: np.ndarray,
    generator: np.random.Generator,
    *,
    bags: int,
    share: float,
    size: int,
    metric: str,
) -> np.ndarray:
    """Say how often each of M members was picked, (M,) float64 summing to 1 over all bags.

    Each bag may pick from a random ``share`` of the members (at least one). It adds the member with which the soft vote
    of its picks has the least ``nll``, or the most ``accuracy``, on the labels (N,), again and again up to ``size``
    picks, and keeps the shortest of its best beginnings. Bags count alike; the first member wins a tie.
    """
    members = len(probabilities)
    evidence, score = _nll(probabilities, labels) if metric == "nll" else _errors(probabilities, labels)
    counts = np.zeros(members)
    for _ in range(bags):
        bag = np.sort(generator.choice(members, max(1, round(share * members)), replace=False))
        picks = _pick(evidence[..., bag, :], score, size)
        counts += np.bincount(bag[picks], minlength=members) / len(picks)
    return counts / bags


def _pick(evidence: np.ndarray, score: Score, size: int) -> np.ndarray:
    """Return the picks of one bag, in order; ``evidence`` (..., M, N) is what a vote adds up."""
    total = np.zeros_like(evidence[..., 0, :])
    picks, scores = [], []
    for step in range(1, size + 1):
        found = score(evidence, total, step)
        best = int(found.argmin())
        picks.append(best)
        scores.append(found[best])
        total += evidence[..., best, :]
    return np.array(picks[: int(np.argmin(scores)) + 1])


def _nll(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Score]:
    """Return the probability of the true class, and the mean negative log-likelihood when any member joins a sum.

    A logarithm costs as much as many products, so it is taken of products of 16 rows: at least 1e-7 each, they stay far
    above the smallest float64.
    """
    rows = len(labels)
    padded = np.zeros((len(probabilities), -(-rows // ROWS_A_LOG) * ROWS_A_LOG))
    padded[:, :rows] = true_class(probabilities, labels)

    def score(evidence: np.ndarray, total: np.ndarray, picks: int) -> np.ndarray:
        base = total.copy()
        base[rows:] = 1
        product = evidence + base
        for _ in range(ROWS_A_LOG.bit_length() - 1):
            half = product.shape[1] // 2
            product = product[:, :half] * product[:, half:]
        return np.log(picks) - np.log(product).sum(axis=1) / rows

    return padded, score


def _errors(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Score]:
    """Return by how much the true class leads each other class (C-1, M, N), and the share of wrong rows likewise.

    A tie goes to the lower class, as everywhere; a lead within rounding of zero is a tie.
    """
    rows = normalised(probabilities)
    classes = rows.shape[2]
    others = (labels[:, None] + np.arange(1, classes)) % classes  # (N, C-1)
    true = np.take_along_axis(rows, labels[None, :, None], axis=2)
    leads = (true - np.take_along_axis(rows, others[None], axis=2)).transpose(2, 0, 1)
    needed = np.where(others < labels[:, None], ROUNDING, -ROUNDING).T  # (C-1, N)

    def score(evidence: np.ndarray, total: np.ndarray, picks: int) -> np.ndarray:
        right = evidence[0] > needed[0] - total[0]
        for lead, least in zip(evidence[1:], needed[1:] - total[1:], strict=True):
            right &= lead > least
        return 1 - right.mean(axis=1)

    return np.ascontiguousarray(leads), score
