"""Exit codes, and the signals that end in two of them."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

DONE, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


@contextlib.contextmanager
def stop_flag() -> Iterator[tuple[Callable[[], bool], list[int]]]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop that training asks for; a second Ctrl-C ends at once."""
    caught: list[int] = []

    def note(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield (lambda: bool(caught)), caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def code_of(caught: list[int]) -> int:
    """The exit code of a command that was asked to stop, from the signals that asked."""
    return TERMINATED if caught and caught[0] == signal.SIGTERM else INTERRUPTED
