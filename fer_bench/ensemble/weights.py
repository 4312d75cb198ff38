"""Weights of a soft vote, fitted on validation rows."""

import numpy as np

from fer_bench.ensemble.votes import FLOOR, normalised


def fit_weights(probabilities: np.ndarray, labels: np.ndarray, pull: float) -> np.ndarray:
    """Find the weights on the simplex, (M,), whose soft vote of (M, N, C) has the least penalised loss.

    The loss is the mean negative log-likelihood of the labels (N,) plus ``pull`` times KL(uniform || weights), in nats:
    as if ``pull`` x N further images had been seen that favour no member. It is convex in the weights, so the softmax
    of M free numbers reaches its only minimum from the uniform start, the same on every call.
    """
    from scipy.optimize import minimize

    true = true_class(probabilities, labels)
    start = np.zeros(len(true))
    found = minimize(_loss, start, args=(true, pull), jac=True, method="L-BFGS-B", options={"ftol": 1e-13})
    return _softmax(found.x)


def true_class(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each member's probability of the true class, (M, N), at least 1e-7."""
    return np.maximum(normalised(probabilities)[:, np.arange(len(labels)), labels], FLOOR)


def _loss(free: np.ndarray, true: np.ndarray, pull: float) -> tuple[float, np.ndarray]:
    """Return the penalised loss and its gradient (M,) at the weights softmax(free)."""
    weights = _softmax(free)
    vote = weights @ true  # (N,)
    likelihood = -weights * ((true / vote).mean(axis=1) - 1)
    kl = -np.log(weights).mean() - np.log(len(weights))
    return float(-np.log(vote).mean() + pull * kl), likelihood + pull * (weights - 1 / len(weights))


def _softmax(free: np.ndarray) -> np.ndarray:
    raised = np.exp(free - free.max())
    return raised / raised.sum()
