"""What is wrong with the members of a suite, all of it at once, before any training starts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from fer_bench import records
from fer_bench.config import Member, Suite
from fer_bench.errors import UserError
from fer_bench.models import build, check, find_weights
from fer_bench.suite.plan import Run
from fer_bench.train import refuse_precision


def refuse_bad_members(path: Path, suite: Suite, chosen: Sequence[Member]) -> None:
    """Build every distinct network of ``chosen``, pass one image through it, and read the weights given as files.

    Raises:
        UserError: one line for each member that is wrong, with file and key path.
    """
    networks: dict[str, str | None] = {}
    lines = []
    for member in (member for member in suite.members if member in chosen):
        if (key := _architecture(member)) not in networks:
            networks[key] = _problem(member)
        problem = networks[key] or _problem_of_weights(member)
        if problem:
            lines.append(f"{path}: {suite.place(member)}: {problem}")
    if lines:
        raise UserError("\n".join(lines))


def warnings(path: Path, suite: Suite, plan: Sequence[Run], device: torch.device) -> Iterator[str]:
    """Yield one line for each member whose training will fail at its turn, which is known at once."""
    for member in suite.members:
        reasons = [why for run in plan if run.member.name == member.name and (why := _why_not(run, device))]
        if reasons:
            yield f"warning: {path}: {suite.place(member)}: cannot start: {reasons[0]}"


def other_data(board: Path, digest: str) -> Iterator[str]:
    """Yield a line where a board has rows, and all of them on other data: told now, not after the training."""
    theirs = {record["data"]["digest"] for record in records.load_all(board) if record["kind"] != "failure"}
    if theirs and digest not in theirs:
        yield (
            f"warning: the data has digest {digest[:12]}, the rows of {board} have {min(theirs)[:12]}: these runs will "
            "not be compared with them; a JPEG copy has other pixels, take the CSV or PNG form"
        )


def _architecture(member: Member) -> str:
    return f"{member.backbone} {member.image_size} {member.sides} {sorted(member.options.items())}"


def _problem(member: Member) -> str | None:
    try:
        check(member)
    except UserError as error:
        return str(error)
    return None


def _problem_of_weights(member: Member) -> str | None:
    """Say why a file of weights does not do: it is told now, not after an hour."""
    if not member.weights:
        return None
    try:
        build(member, find_weights(member))
    except UserError as error:
        return str(error)
    return None


def _why_not(run: Run, device: torch.device) -> str | None:
    if run.unavailable or run.state in ("done", "score"):
        return run.unavailable
    try:
        refuse_precision(run.member, device)
    except UserError as error:
        return str(error)
    return None
