"""Does a record hold: its keys, its files, and figures that anyone can recompute from them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench.errors import UserError
from fer_bench.records.contents import array_problems
from fer_bench.records.identity import differing_keys, stem_of
from fer_bench.records.schema import Record, broken, inconsistent, misplaced
from fer_bench.records.store import arrays

Recompute = Callable[[np.ndarray, np.ndarray], dict[str, Any]]


def verify(board: Path, record: Record, recompute: Recompute) -> list[str]:
    """List what is wrong with a record, one line a problem; an empty list means that it holds.

    ``recompute`` turns labels (N,) and stored probabilities (N, 7) into the figures that the record must show.
    """
    try:
        problems = list(_problems(board, record, recompute))
    except UserError as error:
        problems = [str(error)]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # parts that the schema leaves free
        problems = [f"its identity or figures have no record's form ({type(error).__name__}: {error})"]
    return [f"{stem_of(record)}: {problem}" for problem in problems]


def _problems(board: Path, record: Record, recompute: Recompute) -> Iterator[str]:
    if problem := broken(record) or inconsistent(record) or misplaced(board, record):
        yield problem
    elif record["kind"] != "failure":
        stored = arrays(board, record)
        wrong = list(array_problems(record, stored))
        yield from wrong or _wrong_figures(record, stored, recompute)


def _wrong_figures(record: Record, stored: dict[str, np.ndarray], recompute: Recompute) -> Iterator[str]:
    """Yield the figures that are not those of the arrays."""
    for part in record["figures"]:
        for view in record["views"]:
            recomputed = recompute(stored[f"{part}/labels"], stored[f"{part}/{view}"])
            for change in differing_keys(record["figures"][part].get(view, {}), recomputed):
                yield f"figures.{part}.{view}.{change} when recomputed"
