"""What choosing on PrivateTest would have gained a suite's figures: printed apart, kept nowhere, without torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import records
from fer_bench.config import Suite, load_suite
from fer_bench.ensemble.oracle import Inflation, Part, best_of, best_votes
from fer_bench.errors import UserError

WARNING = (
    "DIAGNOSTIC, NOT RESULTS: how far choosing on PrivateTest would have inflated the figures. "
    "Report none of them, and choose nothing by them."
)

Record = dict[str, Any]
Candidate = tuple[Record, str]
"""A record and one of its view sets."""


def oracle(path: Path, board: Path) -> list[Inflation]:
    """Ask which of a suite's finished runs, rows and votes PublicTest prefers, and which PrivateTest would have.

    Reads stored probabilities only, so PrivateTest is not looked at anew, and writes nothing.

    Raises:
        UserError: a board that does not exist or has none of the suite's runs, or runs made on different data.
    """
    suite = load_suite(path)
    if not board.is_dir():
        raise UserError(f"{board}: no such folder; name the board that holds the records with --board")
    runs, rows = finished(board, suite)
    if not runs:
        raise UserError(f"{board}: no run of {path} is finished there, so there is nothing to choose among")
    return list(_answers(board, runs, rows))


def finished(board: Path, suite: Suite) -> tuple[list[Record], list[Record]]:
    """Records of a suite's runs on all of Training and of the submitted rows that it names, then those and its votes.

    What is not there, or failed, is no candidate.
    """
    runs = [records.find(board, member.name, seed) for seed in suite.seeds for member in suite.members]
    submitted = dict.fromkeys(name for ensemble in suite.ensembles for name in ensemble.submitted)
    runs += [records.find(board, name, None) for name in submitted]
    votes = [records.find(board, ensemble.name, None) for ensemble in suite.ensembles]
    own = [run for run in runs if run and run["kind"] in ("member", "external")]
    return own, own + [vote for vote in votes if vote and vote["kind"] == "ensemble"]


def _answers(board: Path, runs: Sequence[Record], rows: Sequence[Record]) -> Iterator[Inflation]:
    every = [(run, view) for run in runs for view in run["views"]]
    titles = [f"{records.stem_of(run)} {view}" for run, view in every]
    yield best_of("run and view", titles, *_parts(board, every))
    headlines = [(run, run["headline"]) for run in runs]
    if len(rows) > len(runs):
        titles = [records.stem_of(row) for row in rows]
        yield best_of("row of the suite", titles, *_parts(board, [(row, row["headline"]) for row in rows]))
    if len(runs) > 1:
        yield from best_votes([records.stem_of(run) for run in runs], *_parts(board, headlines))


def _parts(board: Path, candidates: Sequence[Candidate]) -> tuple[Part, Part]:
    """PublicTest and PrivateTest of the candidates."""
    stored = {records.stem_of(record): records.arrays(board, record) for record, _ in candidates}
    found = []
    for part in ("PublicTest", "PrivateTest"):
        labels = [arrays[f"{part}/labels"] for arrays in stored.values()]
        if not all(np.array_equal(other, labels[0]) for other in labels):
            raise UserError(
                f"{board}: {part} labels differ among {', '.join(stored)}; they were made on different data"
            )
        p = np.stack([stored[records.stem_of(record)][f"{part}/{view}"] for record, view in candidates])
        found.append(Part(p, labels[0].astype(np.int64)))
    return found[0], found[1]
