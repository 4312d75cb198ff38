"""Bad rows: what was wrong where, and the one error that names them."""

from dataclasses import dataclass, field
from pathlib import Path

from fer_bench.errors import UserError

SHOWN = 5


@dataclass
class BadRows:
    """The count of bad rows and the first five of them, each as "line 7: 2303 pixels, expected 2304"."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str, reason: str) -> None:
        """Count one more row; only the first five are worded."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(f"{place}: {reason}")

    def refuse(self, path: Path, total: int) -> None:
        """Raise a UserError if there is any bad row among ``total``."""
        if self.count:
            rows = f"{self.count} bad row{'s' if self.count > 1 else ''} of {total}"
            first = "" if self.count <= SHOWN else f", the first {SHOWN}"
            raise UserError(
                f"{path}: {rows}{first}: {'; '.join(self.first)}; mend the file, or drop such rows with --skip-bad-rows"
            )


def shown(text: bytes, limit: int = 24) -> str:
    """A short printable form of a field for an error message."""
    word = text[: limit + 1].decode("utf-8", "backslashreplace")
    return repr(word if len(text) <= limit else word[:limit] + "...")
