"""What people see while a suite runs, all on stderr: a bar on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

if TYPE_CHECKING:  # it needs torch, which building ensembles does without
    from fer_bench.train import Progress as Where


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


@dataclass
class Display:
    """Speaks on stderr; ``quiet`` leaves only errors, which are not its business."""

    quiet: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

    def say(self, text: str) -> None:
        """Print one line."""
        if not self.quiet:
            self.console.print(text, markup=False)

    @contextlib.contextmanager
    def training(self, title: str) -> Iterator[Callable[[Where], None]]:
        """Give the function that a training run reports its steps to."""
        if self.quiet:
            yield lambda where: None
        elif self.console.is_terminal:
            with _bar(self.console) as bar:
                yield _Bar(bar, title, self.say)
        else:
            yield _Lines(self.say)


def _bar(console: Console) -> Progress:
    facts = TextColumn("{task.fields[facts]}")
    columns: tuple[Any, ...] = (TextColumn("  {task.description}"), BarColumn(bar_width=None), facts)
    return Progress(*columns, console=console, transient=True)


def epoch_line(where: Where) -> str:
    """A finished epoch in one line."""
    entry = where.entry
    assert entry is not None
    return (
        f"  epoch {where.epoch}/{where.epochs}  train loss {entry['train_loss']:.4f}  "
        f"PublicTest loss {entry['validation_loss']:.4f}  accuracy {entry['validation_accuracy']:.2%}  "
        f"{entry['images_per_second']:.0f} images/s  {duration(where.seconds_left)} left"
    )


@dataclass
class _Lines:
    say: Callable[[str], None]

    def __call__(self, where: Where) -> None:
        if where.entry is not None:
            self.say(epoch_line(where))


def bar_facts(where: Where, last: dict[str, float] | None, room: int) -> str:
    """What stands behind the bar; the PublicTest loss of the ``last`` epoch only where all fits into ``room``."""
    head, loss = f"epoch {where.epoch}/{where.epochs}  ", f"{where.loss():.2f} train"
    tail = f"{where.images_per_second:.0f} images/s  {duration(where.seconds_left)} left"
    if last is None:
        return f"{head}loss {loss}  {tail}"
    accuracy = f"{last['validation_accuracy']:.1%}"
    whole = f"{head}loss {loss} {last['validation_loss']:.2f} PublicTest  {accuracy}  {tail}"
    return whole if len(whole) <= room else f"{head}loss {loss}  PublicTest {accuracy}  {tail}"


class _Bar:
    """Asks for the loss, which waits for the device, twice a second at most."""

    least = 4
    """Columns of the shortest bar, beside three of indent and spaces."""

    def __init__(self, bar: Progress, title: str, say: Callable[[str], None]) -> None:
        self.bar, self.say, self.asked = bar, say, 0.0
        self.last: dict[str, float] | None = None
        self.room = bar.console.width - len(title) - self.least - 4
        self.task = bar.add_task(title, total=None, facts="")

    def __call__(self, where: Where) -> None:
        if where.entry is not None:
            self.last = where.entry
            self.say(epoch_line(where))
        now = time.monotonic()
        if where.entry is None and now - self.asked < 0.5:
            return
        self.asked = now
        done, total = where.steps_made
        self.bar.update(self.task, total=total, completed=done, facts=bar_facts(where, self.last, self.room))
