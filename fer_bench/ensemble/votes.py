"""Votes that need no fit: members' probabilities (M, N, C) to one prediction (N, C)."""

from collections.abc import Sequence

import numpy as np

from fer_bench.errors import UserError

FLOOR = 1e-7  # about the smallest float16 above zero: a stored 0 is no proof that a class cannot be


def soft_vote(probabilities: np.ndarray | Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Average the members' probabilities, (M, N, C) -> (N, C) float64 with rows that sum to 1.

    Each member's rows are first divided by their sum, so that float16 rounding gives no member a larger say.
    ``weights`` (M,) are non-negative and need not sum to 1; without them all members count alike.
    A number of weights that is not M, or weights that cannot be a mean, raise UserError.
    """
    rows = normalised(probabilities)
    return np.tensordot(_shares(weights, len(rows)), rows, axes=1)


def hard_vote(probabilities: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of members that vote for each class, (M, N, C) -> (N, C); a member votes for its first maximum.

    The lower class wins a tie, of a member as of the vote.
    """
    stacked = np.asarray(probabilities)
    _require_members(stacked)
    votes = stacked.argmax(axis=2)[..., None] == np.arange(stacked.shape[2])
    return votes.mean(axis=0)


def geometric_mean(probabilities: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Average the members' log-probabilities and renormalise, (M, N, C) -> (N, C): the mean in logits."""
    mean = np.exp(log_rows(probabilities).mean(axis=0))
    return mean / mean.sum(axis=-1, keepdims=True)


def normalised(probabilities: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Return probabilities (M, N, C) as float64 with rows that sum to 1."""
    stacked = np.asarray(probabilities, dtype=np.float64)
    _require_members(stacked)
    return stacked / stacked.sum(axis=2, keepdims=True)


def log_rows(probabilities: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Return the natural logarithm of normalised probabilities (M, N, C), which are taken to be at least 1e-7."""
    return np.log(np.maximum(normalised(probabilities), FLOOR))


def _require_members(stacked: np.ndarray) -> None:
    if stacked.ndim != 3:
        raise ValueError(f"probabilities must be (members, images, classes); got shape {stacked.shape}")


def _shares(weights: Sequence[float] | None, members: int) -> np.ndarray:
    """Return the members' shares of the vote, (M,) summing to 1."""
    shares = np.ones(members) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (members,):
        raise UserError(f"weights and members must be equal in number; got {shares.size} weights, {members} members")
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise UserError(f"weights must be non-negative numbers, not all zero; got {shares.tolist()}")
    return shares / shares.sum()
