"""Several runs at once: the images that N processes train on together, beside one process alone."""

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import torch

from fer_bench.allocation import keep_freed_memory
from measure import Row, Setting, repeated, seconds_of
from training import Bare, made, member

BLOCK = 5.0
"""Seconds that one process alone takes for its steps."""


def jobs(setting: Setting) -> list[Row]:
    """Measure the images a second of 2, 4 and 8 processes (2 on a CPU) against those of one."""
    counts = [2] if setting.is_quick or setting.device.type == "cpu" else [2, 4, 8]
    return [row for backbone in setting.backbones for row in _jobs(backbone, counts, setting)]


def _jobs(backbone: str, counts: list[int], setting: Setting) -> list[Row]:
    side = 48 if setting.is_quick else 96
    seconds: dict[int, list[float]] = {n: [] for n in (1, *counts)}
    with crew(max(counts), backbone, side, setting) as pipes:
        steps = 2 if setting.is_quick else max(2, round(BLOCK / together(pipes[:1], 1, setting)))
        for repeat in range(setting.repeats + 1):
            for n, found in seconds.items():
                spent = together(pipes[:n], steps, setting) / n
                found += [spent] if repeat else []
    named = {f"{n} at once": values for n, values in seconds.items()}
    facts = {"steps": steps, "batch": member(backbone, side, setting).train.batch_size}
    return [Row(f"{backbone}, {side} px: --jobs {n}", named, "1 at once", f"{n} at once", None, facts) for n in counts]


@contextlib.contextmanager
def crew(count: int, backbone: str, side: int, setting: Setting) -> Iterator[list[Connection]]:
    """Start so many processes, each with a network of its own, and end them."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(count)]
    processes = [
        context.Process(target=_serve, args=(theirs, backbone, side, setting), daemon=True) for _, theirs in ends
    ]
    for process in processes:
        process.start()
    try:
        yield [ours for ours, _ in ends]
    finally:
        for ours, _ in ends:
            ours.send(None)
        for process in processes:
            process.join(60)


def together(pipes: list[Connection], steps: int, setting: Setting) -> float:
    """Seconds from the start to when the last process has made its steps; on a CPU they share its threads."""
    threads = max(1, torch.get_num_threads() // len(pipes))
    start = time.perf_counter()
    for pipe in pipes:
        pipe.send((steps, threads))
    for pipe in pipes:
        pipe.recv()
    return time.perf_counter() - start


def _serve(pipe: Connection, backbone: str, side: int, setting: Setting) -> None:
    keep_freed_memory()
    this = member(backbone, side, setting)
    network, engine = made(this, setting)
    bare = Bare(network, this, setting.device, engine.precision)
    for _ in range(2 if setting.is_quick else 5):
        bare()
    while (asked := pipe.recv()) is not None:
        steps, threads = asked
        torch.set_num_threads(threads)
        pipe.send(seconds_of(repeated(bare, steps), setting.device))
