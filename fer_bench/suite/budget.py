"""A time budget and the pace of a run: plain numbers, no torch."""

import re
import time
from dataclasses import dataclass, field

from fer_bench.errors import UserError

WARM_STEPS = 2
"""Steps that a pace leaves out: a device chooses its kernels in them."""
LEAST_STEPS, LEAST_SECONDS = 5, 3.0
"""What a pace must have seen."""


def seconds_of(text: str) -> float:
    """Read a duration: 90 (seconds), 45s, 9m, 1h30m."""
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"{number}|(?:{number}h)?(?:{number}m)?(?:{number}s)?", text.strip())
    plain, hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0,) * 4
    total = plain + 3600 * hours + 60 * minutes + seconds
    if not total:
        raise UserError(f"--time-budget: {text!r} is no time above 0; give seconds, or such as 90s, 9m, 1h30m")
    return total


@dataclass(frozen=True)
class Budget:
    """How long training may go on, from the start of the command."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds, below 0 where it is spent."""
        return self.start + self.seconds - time.monotonic()


@dataclass
class Pace:
    """The seconds that a run still needs, by the steps that it made in this call."""

    begun: tuple[int, float] | None = None
    steps_seen: int = 0

    def left(self, done: int, total: int, now: float) -> float | None:
        """Seconds for the rest of ``total`` steps at the time ``now``; None while too little was seen."""
        self.steps_seen += 1
        if self.begun is None:
            self.begun = (done, now) if self.steps_seen > WARM_STEPS else None
            return None
        steps, seconds = done - self.begun[0], now - self.begun[1]
        return seconds / steps * (total - done) if steps >= LEAST_STEPS and seconds >= LEAST_SECONDS else None
