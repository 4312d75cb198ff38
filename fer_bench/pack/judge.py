"""What a board takes of a pack: each record verified as if it were on the board already."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fer_bench import records
from fer_bench.errors import UserError
from fer_bench.leaderboard import proof
from fer_bench.records import stem_of

Record = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What becomes of one file of a pack, and why in words; ``record`` is None where none could be read."""

    title: str
    state: Literal["new", "known", "refused"]
    why: str = ""
    record: Record | None = None


def judge(incoming: Path, board: Path, merged: Path) -> list[Verdict]:
    """Say of each record in the folder ``incoming`` whether ``board`` takes it; ensembles come last.

    ``merged`` is an empty folder, named as the board, in which the future board is put together: records are verified
    there, beside those that an ensemble needs. The board itself is only read.
    """
    own = records.load_all(board)
    for record in own:
        for name, path in records.files(board, record).items():
            (merged / name).parent.mkdir(parents=True, exist_ok=True)
            (merged / name).symlink_to(path.resolve())
    found = {stem_of(record): record for record in own}
    verdicts = []
    for path in sorted((incoming / "results").glob("*.json")):
        try:
            verdicts.append(Verdict(path.stem, "new", record=records.load(path)))
        except UserError as error:
            verdicts.append(Verdict(path.stem, "refused", _without_place(error, path)))
    verdicts.sort(key=lambda verdict: (verdict.record or {}).get("kind") == "ensemble")
    return [_judged(verdict, incoming, merged, found) for verdict in verdicts]


def _judged(verdict: Verdict, incoming: Path, merged: Path, found: dict[str, Record]) -> Verdict:
    """Decide about one record; what is taken joins ``merged`` and ``found``."""
    record = verdict.record
    if record is None:
        return verdict
    existing = found.get(stem_of(record))
    if existing and (why := _known(record, existing)) is not None:
        return Verdict(verdict.title, "known", why, record)
    if existing and records.conflict(existing, record["identity"]):
        return Verdict(verdict.title, "refused", _taken(record, existing), record)
    why = next(_problems(record, incoming, merged, found), None)
    if why is not None:
        return Verdict(verdict.title, "refused", why, record)
    found[stem_of(record)] = record
    return Verdict(verdict.title, "new", "takes the place of a failure" if existing else "", record)


def _known(record: Record, existing: Record) -> str | None:
    """Say why the board needs no other record of a run, or None where it does."""
    if record["kind"] == "failure" and existing["kind"] != "failure":
        return "failed there, finished on the board"
    if record["run_id"] != existing["run_id"] or record["kind"] != existing["kind"]:
        return None
    same = record.get("predictions") == existing.get("predictions")
    return "" if same else "run twice with other bits; the board keeps its own"


def _taken(record: Record, existing: Record) -> str:
    changes = "; ".join(records.differing_keys(existing["identity"], record["identity"]))
    hint = "build it from the board with `fer-bench ensemble`" if record["kind"] == "ensemble" else "rename one of them"
    return f"the board has another run of that name ({changes}); {hint}"


def _problems(record: Record, incoming: Path, merged: Path, found: dict[str, Record]) -> Iterator[str]:
    """Yield what keeps a record from the board, after laying its files into ``merged``; they go again if it does."""
    others = [other for other in found.values() if other["kind"] != "failure"]
    digests = {other["data"]["digest"] for other in others}
    if digests and record["data"]["digest"] not in digests:
        own = next(iter(digests))
        yield f"made on data {record['data']['digest'][:12]}, the board's is {own[:12]}; unpack it into another board"
        return
    if lacking := [name for name, path in records.files(incoming, record).items() if not path.is_file()]:
        yield f"the pack lacks its {lacking[0]}"
        return
    records.adopt(merged, incoming, record)
    try:
        problems = proof.joining_problems(merged, record, others)
    except Exception as error:  # arrays that were made to harm can fail in any part of numpy
        problems = [_without_place(error, merged)]
    if problems:
        records.remove(merged, record)
    prefix = f"{stem_of(record)}: "
    yield from (_without_place(problem, merged).removeprefix(prefix) for problem in problems)


def _without_place(error: object, path: Path) -> str:
    """A message without the temporary folder, which is gone when it is read."""
    return str(error).removeprefix(f"{path}: ").replace(f"{path}/", "")
