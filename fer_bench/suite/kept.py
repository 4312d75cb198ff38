"""What finished runs keep: a record of the same training whose weights are here, and the network of a record."""

from pathlib import Path
from typing import Any

from fer_bench import records
from fer_bench.config import Member, suite_file
from fer_bench.errors import UserError
from fer_bench.models import Network, build
from fer_bench.suite.plan import Run


def trained(board: Path, runs_dir: Path, run: Run) -> dict[str, Any] | None:
    """A finished record of the same training: of the very run, else one that has all its view sets, or the weights.

    A name is no part of what a run is, so the record may stand under another one; its own name comes first.
    """
    if run.state == "redo":
        return None
    same = [record for record in records.load_all(board) if records.same_training(record, run.identity)]
    same.sort(key=lambda record: (record["run_id"] != run.run_id, record["name"] != run.member.name))
    if same and same[0]["run_id"] == run.run_id:
        return same[0]
    return next((record for record in same if _has_views(record, run.member) or _has_weights(record, runs_dir)), None)


def _has_views(record: dict[str, Any], member: Member) -> bool:
    return set(member.views) <= set(record["views"])


def _has_weights(record: dict[str, Any], runs_dir: Path) -> bool:
    return records.weights_path(runs_dir, record["identity"]).is_file()


def training_command(record: dict[str, Any]) -> str:
    """What trains one member's run again, and not the others of its suite."""
    limit = f" --limit {record['limited']}" if record.get("limited") else ""
    chosen = f"--member {record['name']} --seed {record['seed']}"
    return f"fer-bench run {suite_file(record['suite'])} {chosen}{limit} --force"


def load_network(runs_dir: Path, record: dict[str, Any]) -> Network:
    """The network of a member's record with its finished weights, on the CPU.

    Raises:
        UserError: when the weights are not on this machine or cannot be read.
    """
    from safetensors.torch import load_file

    path = records.weights_path(runs_dir, record["identity"])
    if not path.is_file():
        raise UserError(
            f"{path}: the weights of {record['name']} are not here; they stay on the machine that trained it "
            f"({training_command(record)} trains it again)"
        )
    network = build(Member(name=record["name"], **record["identity"]["member"]), None)
    try:
        network.module.load_state_dict(load_file(path))
    except Exception as error:  # a damaged file fails in any part of the readers
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: cannot be read as the weights of {record['name']} ({reason}); "
            f"{training_command(record)} trains it again"
        ) from error
    return network
