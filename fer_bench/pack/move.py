"""``fer-bench pack`` and ``fer-bench unpack``."""

import json
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_bench import metrics, records
from fer_bench.errors import UserError, meant
from fer_bench.files import write_atomic
from fer_bench.pack import archive
from fer_bench.pack.judge import Verdict, judge
from fer_bench.records import stem_of

Record = dict[str, Any]


@dataclass(frozen=True)
class Packed:
    """What went into a file, and the records that do not hold and were left out."""

    titles: tuple[str, ...]
    left_out: tuple[str, ...]
    size: int
    """Bytes of the file."""


def pack(
    board: Path,
    file: Path,
    *,
    names: Sequence[str] = (),
    among: Collection[str] | None = None,
    weights: Sequence[str] = (),
    runs_dir: Path,
    failures: bool = True,
) -> Packed:
    """Write the records of a board, or of some names, into one file, with the weights of the rows asked for.

    ``names`` must be there. ``among`` are the names of a suite, where one bounds them: those are taken that are there.

    Raises:
        UserError: when there is nothing to pack, a name is unknown or not the suite's, or weights are not here.
    """
    if not board.is_dir():
        raise UserError(f"{board}: no such folder; name the board that holds the records with --board")
    everything = records.load_all(board)
    asked = _called(board, everything, weights)
    chosen = [*(_called(board, everything, names) if names else everything)]
    if among is not None:
        by_name = [*(chosen if names else ()), *asked]
        if others := sorted({record["name"] for record in by_name} - set(among)):
            raise UserError(f"{others[0]}: the suite does not declare it; leave the name out, or the suite")
        chosen = [record for record in chosen if record["name"] in among]
    trained = _trained(everything, asked)
    chosen = [record for record in chosen if failures or record["kind"] != "failure"]
    chosen += [record for record in trained if record not in chosen]
    problems = {stem_of(record): records.verify(board, record, metrics.figures) for record in chosen}
    whole = [record for record in chosen if not problems[stem_of(record)]]
    if not whole:
        of = "" if among is None else " of the suite"
        raise UserError(f"{board}: has no record{of} that holds, so there is nothing to pack")
    contents = _weights(trained, runs_dir)
    for record in whole:
        contents |= records.files(board, record)
    archive.write(file, contents)
    left_out = tuple(line for lines in problems.values() for line in lines)
    return Packed(tuple(stem_of(record) for record in whole), left_out, file.stat().st_size)


def _called(board: Path, everything: list[Record], names: Iterable[str]) -> list[Record]:
    """The records of names, NAME for all its seeds or NAME.s1 for one; in the order of the board."""
    wanted = set(names)
    if unknown := sorted(wanted - {title for r in everything for title in (r["name"], stem_of(r))}):
        there = list(dict.fromkeys(record["name"] for record in everything))
        raise UserError(f"{board}: no record is called {unknown[0]!r}; {meant(unknown[0], there)}")
    return [record for record in everything if {record["name"], stem_of(record)} & wanted]


def _trained(everything: list[Record], asked: list[Record]) -> list[Record]:
    """The trained runs among records, and the members of the ensembles among them."""
    run_ids = {run["run_id"] for record in asked for run in [record, *record.get("members", [])]}
    return [record for record in everything if record["kind"] in records.TRAINED and record["run_id"] in run_ids]


def _weights(trained: list[Record], runs_dir: Path) -> dict[str, Path]:
    """The files of the weights of records; name in the pack -> path."""
    found = {}
    for record in trained:
        path = records.weights_path(runs_dir, record["identity"])
        if not path.is_file():
            raise UserError(f"{path}: the weights of {stem_of(record)} are not on this machine")
        found[f"weights/{record['run_id']}{path.suffix}"] = path
    return found


def unpack(file: Path, board: Path, *, runs_dir: Path) -> list[Verdict]:
    """Take the records of a pack that hold and are new into a board, one by one, after all have been verified.

    Weights go to ``runs_dir`` where their record is the board's. The page is not rendered. What was interrupted is
    finished by another call.

    Raises:
        UserError: for a file that is no whole pack; nothing has changed then.
    """
    if not board.is_dir() and board.name == "benchmark":
        raise UserError(f"{board}: no such folder; run this at the top of a checkout, or name a board with --board")
    with tempfile.TemporaryDirectory(prefix="fer-bench-unpack-") as name:
        folder = Path(name)
        incoming, merged = folder / "incoming", folder / "merged" / board.resolve().name
        names = archive.extract(file, incoming)
        verdicts = judge(incoming, board, merged)
        for verdict in verdicts:
            if verdict.state == "new" and verdict.record is not None:
                records.adopt(board, incoming, verdict.record)
        packed = [incoming / entry for entry in names if entry.startswith("weights/")]
        return verdicts + [_place_weights(path, verdicts, board, runs_dir) for path in packed]


def _place_weights(path: Path, verdicts: list[Verdict], board: Path, runs_dir: Path) -> Verdict:
    """Keep weights where the board's record of their run is the one that came with them."""
    came = next((v.record for v in verdicts if v.record and v.record["run_id"] == path.stem), None)
    own = came and records.find(board, came["name"], came["seed"], came.get("fold"))
    if not came or not own or own.get("predictions") is None or own["predictions"] != came.get("predictions"):
        return Verdict(f"weights {path.stem}", "refused", "their record is not the board's")
    title, data = f"weights of {stem_of(came)}", path.read_bytes()
    target = records.weights_path(runs_dir, came["identity"])
    if not _is_safetensors(data):
        return Verdict(title, "refused", "no whole .safetensors file")
    if target.is_file() and target.read_bytes() == data:
        return Verdict(title, "known")
    write_atomic(target, data)
    return Verdict(title, "new", str(target))


def _is_safetensors(data: bytes) -> bool:
    """Whether the header can be read and the tensors end where the file does."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    except (ValueError, AttributeError, LookupError, TypeError):
        return False
    return bool(ends) and len(data) == 8 + size + max(ends)
