"""Members' probabilities (M, N, C) to one prediction (N, C): M members, N images, C classes."""

from collections.abc import Sequence

import numpy as np

from fer_bench.errors import UserError


def soft_vote(probabilities: np.ndarray | Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Average the members' probabilities, (M, N, C) -> (N, C) float64 with rows that sum to 1.

    Each member's rows are first divided by their sum, so that float16 rounding gives no member a larger say.
    ``weights`` (M,) are non-negative and need not sum to 1; without them all members count alike.
    A number of weights that is not M, or weights that cannot be a mean, raise UserError.
    """
    stacked = np.asarray(probabilities, dtype=np.float64)
    if stacked.ndim != 3:
        raise ValueError(f"probabilities must be (members, images, classes); got shape {stacked.shape}")
    rows = stacked / stacked.sum(axis=2, keepdims=True)
    return np.tensordot(_shares(weights, len(rows)), rows, axes=1)


def _shares(weights: Sequence[float] | None, members: int) -> np.ndarray:
    """Return the members' shares of the vote, (M,) summing to 1."""
    shares = np.ones(members) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (members,):
        raise UserError(f"weights and members must be equal in number; got {shares.size} weights, {members} members")
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise UserError(f"weights must be non-negative numbers, not all zero; got {shares.tolist()}")
    return shares / shares.sum()
