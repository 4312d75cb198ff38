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
    columns: tuple[Any, ...] = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"))
    return Progress(*columns, console=console, transient=True)


def epoch_line(where: Where) -> str:
    """A finished epoch in one line."""
    entry = where.entry
    assert entry is not None
    return (
        f"  epoch {where.epoch}/{where.epochs}  loss {entry['train_loss']:.4f}  "
        f"PublicTest accuracy {entry['validation_accuracy']:.2%}  loss {entry['validation_loss']:.4f}  "
        f"{entry['images_per_second']:.0f} images/s  {duration(where.seconds_left)} left"
    )


@dataclass
class _Lines:
    say: Callable[[str], None]

    def __call__(self, where: Where) -> None:
        if where.entry is not None:
            self.say(epoch_line(where))


class _Bar:
    """Asks for the loss, which waits for the device, twice a second at most."""

    def __init__(self, bar: Progress, title: str, say: Callable[[str], None]) -> None:
        self.bar, self.say, self.last = bar, say, 0.0
        self.accuracy = ""
        self.task = bar.add_task(title, total=None, facts="")

    def __call__(self, where: Where) -> None:
        if where.entry is not None:
            self.accuracy = f"PublicTest {where.entry['validation_accuracy']:.2%}  "
            self.say(epoch_line(where))
        now = time.monotonic()
        if where.entry is None and now - self.last < 0.5:
            return
        self.last = now
        facts = (
            f"epoch {where.epoch}/{where.epochs}  loss {where.loss():.4f}  {self.accuracy}"
            f"{where.images_per_second:.0f} images/s  {duration(where.seconds_left)} left"
        )
        done, total = where.steps_made
        self.bar.update(self.task, total=total, completed=done, facts=facts)
