"""The teacher of a distilled network: an ensemble of the board whose predictions of Training are out-of-fold."""

from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import metrics, records
from fer_bench.config import Member
from fer_bench.errors import UserError
from fer_bench.files import sha256_bytes

FIT = "Training"


def sha256_of(board: Path, member: Member, facts: dict[str, Any]) -> tuple[str | None, str | None]:
    """SHA-256 in hex of what a member's teacher predicts, and why it cannot teach; each None where there is none."""
    if member.train.distill is None:
        return None, None
    try:
        stored = _stored(board, member, facts)
    except UserError as error:
        return None, str(error)
    return sha256_bytes(np.ascontiguousarray(stored).astype("<f2").tobytes()), None


def shares(board: Path, member: Member, facts: dict[str, Any], labels: np.ndarray) -> np.ndarray | None:
    """What a member's teacher gives each class of the rows of Training (N, 7), float32; None without a teacher.

    Raises:
        UserError: a teacher that cannot teach this member, or not these labels (N,).
    """
    how = member.train.distill
    if how is None:
        return None
    stored = _stored(board, member, facts)
    record = records.called(board, how.teacher)
    if not np.array_equal(records.arrays(board, record)[f"{FIT}/labels"], labels):
        raise UserError(f"train.distill.teacher: {how.teacher} was made on other labels of {FIT}")
    softened = metrics.normalised(labels, stored) ** (1 / how.temperature)
    return (softened / softened.sum(axis=1, keepdims=True)).astype(np.float32)


def _stored(board: Path, member: Member, facts: dict[str, Any]) -> np.ndarray:
    """Out-of-fold probabilities (N, 7) of the teacher's headline."""
    assert member.train.distill is not None
    name = member.train.distill.teacher
    record = records.find(board, name, None) if name else None
    if record is None or FIT not in record["figures"]:
        raise UserError(
            f"train.distill.teacher: {board} has no ensemble {name!r} that predicts {FIT} out-of-fold; build one of "
            "method fold-average first, over members with folds:"
        )
    if record["data"]["digest"] != facts["digest"]:
        raise UserError(f"train.distill.teacher: {name} was made on other data")
    return records.arrays(board, record)[f"{FIT}/{record['headline']}"]
