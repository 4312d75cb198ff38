"""What a command over a suite leaves behind."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_bench.leaderboard.markdown import count


@dataclass
class Outcome:
    """What a call left: records of the suite, failures among them, what it has not done and why, the board's file."""

    records: list[dict[str, Any]] = field(default_factory=list)
    withheld: dict[str, str] = field(default_factory=dict)  # ensemble -> why there is no such record
    left: dict[str, str] = field(default_factory=dict)  # run -> why it was left: another process is at it, or the time
    board_file: Path | None = None
    stopped: bool = False

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Records of runs that failed."""
        return [record for record in self.records if record["kind"] == "failure"]

    @property
    def is_whole(self) -> bool:
        """Whether all that the suite asks for is there."""
        return not (self.failures or self.withheld or self.left)


def score_line(record: dict[str, Any]) -> str:
    """A record in one line for the terminal."""
    if record["kind"] == "failure":
        return f"failed ({record['failure']['reason']}): {record['failure']['message']}"
    figures, headline = record["figures"], record["headline"]
    validation, test = (figures[part][headline]["accuracy"] for part in ("PublicTest", "PrivateTest"))
    passes = count(record["passes"][headline], "pass", "passes")
    return f"PublicTest {validation:.2%}, PrivateTest {test:.2%} ({headline}, {passes})"
