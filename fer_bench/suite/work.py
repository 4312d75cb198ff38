"""The work of one call: its runs, and whose turn each of them is."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from fer_bench.records import checkpoint_path
from fer_bench.suite.members import Setting
from fer_bench.suite.outcome import Outcome
from fer_bench.suite.plan import Options, Run, renewed
from fer_bench.suite.progress import Display
from fer_bench.suite.schedule import Schedule
from fer_bench.suite.turns import claimed


@dataclass
class Work:
    """What the runs of one call share while they are done, one by one or several at once."""

    setting: Setting
    plan: Sequence[Run]
    schedule: Schedule
    outcome: Outcome
    should_stop: Callable[[], bool]
    display: Display
    taken: list[Run] = field(default_factory=list)
    """Runs that another process is at."""

    @contextlib.contextmanager
    def turn(self, this: Run) -> Iterator[Run | None]:
        """Claim a run as long as the block lasts, and give it as it is now; None where another process has it."""
        options, place = self.setting.options, f"[{self.plan.index(this) + 1}/{len(self.plan)}] {this.title}"
        with claimed(options.runs_dir, this.training_id) as other:
            if other and this.state != "done":
                self.display.say(f"{place}: {other}; going on with the next")
                self.outcome.left[this.title] = str(other)
                self.taken.append(this)
                yield None
                return
            now = this if this.state in ("done", "redo") else renewed(this, options, self.setting.board)
            self.outcome.left.pop(this.title, None)
            self.display.say(f"{place}: {_state_in_words(now, options)}")
            yield now


def _state_in_words(this: Run, options: Options) -> str:
    if this.unavailable:
        return f"cannot start: {this.unavailable}"
    if this.state == "done" and checkpoint_path(options.runs_dir, this.identity).is_file():
        return "done already; --force was stopped while doing it again, and goes on with that"
    words = {
        "new": "training",
        "resume": "going on from its checkpoint",
        "done": "done already",
        "score": "other view sets than its record has: scoring from kept weights",
        "retry": "failed before, trying again",
        "redo": "done already, doing it again (--force)",
    }
    return words[this.state]
