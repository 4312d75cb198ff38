"""Proof of a board: every record, every ensemble, every figure, and the page, recomputed from the files."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import audit, metrics, records
from fer_bench.config import suite_file
from fer_bench.data.faces import OFFICIAL_LABELS
from fer_bench.ensemble import Combined, Recipe, combine_records, passes
from fer_bench.errors import UserError
from fer_bench.files import sha256_bytes
from fer_bench.leaderboard import figures
from fer_bench.leaderboard.folds import fold_problems
from fer_bench.leaderboard.rows import FIT, TEST, VALIDATION, Board
from fer_bench.records import stem_of

TOLERANCE = 1e-3  # float16 keeps a probability near 1 to 5e-4, and summation order may move it one step
MEAN_TOLERANCE = 0.03  # of trees from another release of scikit-learn, which draws their inputs in another order
WEIGHT_TOLERANCE = 5e-3  # a fit ends where its loss no longer changes, a little apart on other machines

Record = dict[str, Any]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Examined:
    """What the check found."""

    problems: tuple[str, ...]
    difference: tuple[str, ...] = ()  # of the page, as lines of a unified diff
    content: Board | None = None  # what was rendered, None where that was not possible


def record_problems(board: Path) -> list[str]:
    """List what is wrong with the records of a board, alone and among each other."""
    found = records.load_all(board)
    problems = [line for record in found for line in records.verify(board, record, metrics.figures)]
    problems += [f"{path}: belongs to no record; delete it" for path in records.stray_files(board)]
    if problems:
        return problems  # what follows reads arrays that have just been found broken
    scored = [record for record in found if record["kind"] != "failure"]
    among = (
        _other_data(scored),
        _other_labels(board, scored),
        _unofficial_labels(board, scored),
        _seed_problems(scored),
        fold_problems(board, scored),
        _vote_problems(board, scored),
        _audit_problems(board, scored),
    )
    return [line for lines in among for line in lines]


def joining_problems(board: Path, record: Record, others: list[Record]) -> list[str]:
    """List what is wrong with one record of a board beside ``others``, scored ones that are known to hold."""
    problems = records.verify(board, record, metrics.figures)
    if problems or record["kind"] == "failure":
        return problems
    same_data = [other for other in others if other["data"]["digest"] == record["data"]["digest"]]
    same_name = [other for other in others if other["name"] == record["name"]]
    sources = {stem_of(source) for source in record.get("members", [])}
    fitted = [other for other in same_data if "Training" in other["figures"]][:1]
    folds = [other for other in others if stem_of(other) in sources or other in [*same_name, *fitted]]
    among = (
        _other_labels(board, [*same_data[:1], record]),
        _unofficial_labels(board, [record]),
        _seed_problems([*same_name, record]),
        fold_problems(board, [*folds, record]),
        _vote_problems(board, [record], others),
    )
    return [line for lines in among for line in lines]


def _other_data(scored: list[Record]) -> Iterator[str]:
    """Yield the records that were not made on the data of most records, and those without a test part."""
    own = _own_data(scored)
    for record in scored:
        if (digest := record["data"]["digest"]) != own:
            yield f"{stem_of(record)}: data digest {digest[:12]}, the board's is {own[:12]}; move it to another board"
        if TEST not in record["figures"]:
            yield f"{stem_of(record)}: has no figures of {TEST}, so it has no row"


def _own_data(scored: list[Record]) -> str:
    """Return the data digest of most records."""
    digests = [record["data"]["digest"] for record in scored]
    return min(digests, key=lambda digest: (-digests.count(digest), digest), default="")


def _audit_problems(board: Path, scored: list[Record]) -> Iterator[str]:
    """Yield an audit of other data than the board's: the page leaves it out."""
    found, own = audit.load(board), _own_data(scored)
    if found and own and found.data.digest != own:
        yield (
            f"{board / audit.FILE}: made on data {found.data.digest[:12]}, the board's is {own[:12]}; "
            f"run `fer-bench data audit PATH --write {board / audit.FILE}`"
        )


def _other_labels(board: Path, scored: list[Record]) -> Iterator[str]:
    """Yield the records whose labels differ from those of the first record with the same data digest."""
    known: dict[str, tuple[str, Arrays]] = {}
    keys = {f"{part}/labels" for part in (VALIDATION, TEST)}
    for record in scored:
        labels = {key: array for key, array in records.arrays(board, record).items() if key in keys}
        first, expected = known.setdefault(record["data"]["digest"], (stem_of(record), labels))
        for key in labels.keys() & expected.keys():
            if not np.array_equal(labels[key], expected[key]):
                yield f"{stem_of(record)}: {key} differ from those of {first}, and the data digest is the same"


def _unofficial_labels(board: Path, scored: list[Record]) -> Iterator[str]:
    """Yield the records of whole FER2013 whose test labels are not those of the challenge, in its order."""
    for record in scored:
        data = record["data"]
        if data["name"] != "fer2013" or data["counts"] != records.WHOLE or record.get("limited"):
            continue
        stored = records.arrays(board, record)
        for part, official in OFFICIAL_LABELS.items():
            if (labels := stored.get(f"{part}/labels")) is not None and sha256_bytes(labels.tobytes()) != official:
                yield (
                    f"{stem_of(record)}: {part}/labels are not FER2013's in the order of fer2013.csv, so neither are "
                    "the rows; make the record again from data in that order"
                )


def _seed_problems(scored: list[Record]) -> Iterator[str]:
    """Yield the seeds of a name that differ in more than the seed, and names of both a member and an ensemble."""
    first: dict[str, Record] = {}
    for record in scored:
        base = first.setdefault(record["name"], record)
        if changes := records.differing_keys(*_without_seed(base, record)):
            yield f"{stem_of(record)}: differs from {stem_of(base)} in more than its seed: {'; '.join(changes)}"


def _without_seed(*pair: Record) -> list[dict[str, Any]]:
    """Return the identities without their seeds; where one is a fold run, also without fold and view sets."""
    found = [{**record["identity"], "seed": None} for record in pair]
    if all(record["kind"] != "fold" for record in pair):
        return found
    return [{**each, "fold": None, "member": {**each.get("member", {}), "views": None}} for each in found]


def _vote_problems(board: Path, scored: list[Record], others: list[Record] | None = None) -> Iterator[str]:
    """Yield the ensembles that are not the vote of their members, which are among them or ``others``."""
    known = {stem_of(record): record for record in [*(others or []), *scored]}
    for record in scored:
        if record["kind"] == "ensemble":
            yield from (f"{stem_of(record)}: {problem}" for problem in _vote(board, record, known))


def _vote(board: Path, record: Record, known: dict[str, Record]) -> Iterator[str]:
    if record["identity"].get("method") != record["method"]:
        yield f"method: {record['method']!r} is not the one that its identity hashes"
    if record["identity"].get("members") != sorted(source["run_id"] for source in record["members"]):
        yield "members: their run ids are not those that its identity hashes"
    sources = [known.get(stem_of(source)) for source in record["members"]]
    for source, member in zip(record["members"], sources, strict=True):
        if member is None:
            yield f"member {stem_of(source)} with run id {source['run_id']} is not on the board"
        elif member["run_id"] != source["run_id"]:
            yield (
                f"made with {stem_of(source)} of run id {source['run_id']}, and the board has {member['run_id']}; "
                f"run `fer-bench ensemble {suite_file(record['suite'])}`"
            )
    members = [m for s, m in zip(record["members"], sources, strict=True) if m and m["run_id"] == s["run_id"]]
    if members and len(members) == len(sources):
        yield from _wrong_votes(board, record, members)


def _wrong_votes(board: Path, record: Record, sources: list[Record]) -> Iterator[str]:
    """Yield the view sets that are not what the recipe makes of the members: what is fitted is fitted again."""
    recipe, stored = Recipe.of(record["identity"]), records.arrays(board, record)
    members = [records.arrays(board, source) for source in sources]
    trainings = [records.training_id(source["identity"]) for source in sources]
    for view in record["views"]:
        try:
            combined = combine_records(recipe, trainings, members, view, records.units(record["members"]))
        except UserError as error:
            yield str(error)
            continue
        for part, vote in ((VALIDATION, combined.validation), (TEST, combined.test), (FIT, combined.training)):
            if problem := _difference(stored.get(f"{part}/{view}"), vote, _other_trees(record)):
                yield f"{part}/{view}: is not the vote of its members, {problem}"
        if (found := record["passes"][view]) != (expected := passes(sources, combined, view)):
            yield f"passes.{view}: {found}, and the members with a say take {expected}"
        if view == record["headline"]:
            yield from _wrong_choice(record, combined)


def _other_trees(record: Record) -> str | None:
    """Say with which releases trees were grown and would be here, where these differ: they agree on average only."""
    there, here = record["environment"].get("scikit-learn"), version("scikit-learn")
    if record["method"] != "stack-trees" or not there or there.split(".")[:2] == here.split(".")[:2]:
        return None
    return f"grown with scikit-learn {there}, here is {here}"


def _difference(stored: np.ndarray | None, vote: np.ndarray | None, loosely: str | None = None) -> str | None:
    if stored is None or vote is None:
        return None if stored is vote else f"stored: {stored is not None}, and the members give {vote is not None}"
    if stored.shape != vote.shape:
        return f"shape {stored.shape} where the members give {vote.shape}"
    apart = np.abs(stored.astype(np.float64) - vote)
    if loosely:
        return f"mean difference {apart.mean():.4f} ({loosely})" if apart.mean() > MEAN_TOLERANCE else None
    worst = apart.max()
    return f"largest difference {worst:.4f}" if worst > TOLERANCE else None


def _wrong_choice(record: Record, combined: Combined) -> Iterator[str]:
    """Yield what the record says wrongly of its weights and of the members that were chosen."""
    recorded, found = record["weights"], combined.weights
    if (recorded is None) != (found is None) or (found is not None and len(recorded) != len(found)):
        yield f"weights: {recorded} where the method gives {'none' if found is None else len(found)}"
    elif found is not None and np.abs(np.array(recorded) - found).max() > WEIGHT_TOLERANCE:
        yield f"weights: are not those that the method gives, {np.round(found, 3).tolist()}"
    titles = [stem_of(source) for source in record["members"]]
    chosen = None if combined.chosen is None else [titles[i] for i in combined.chosen]
    if record.get("chosen") != chosen:
        yield f"chosen: {record.get('chosen')} where the method chooses {chosen}"
    if record.get("selection") not in (None, selection := Recipe.of(record["identity"]).selection):
        yield f"selection: {record['selection']!r}, and the method is {selection}"


def file_problems(folder: Path, target: Path, page: bytes, plans: dict[str, dict[str, Any]]) -> list[str]:
    """List what is wrong with the page and the figures, given what they should be."""
    return [*_page_problems(target, page), *_figure_problems(folder, plans)]


def _page_problems(target: Path, expected: bytes) -> Iterator[str]:
    if not target.is_file():
        yield f"{target}: missing; run `fer-bench leaderboard`"
    elif target.read_bytes() != expected:
        yield f"{target}: is not what the records render to; run `fer-bench leaderboard`"


def page_difference(target: Path, expected: bytes) -> list[str]:
    """Return the page against what it should be, as lines of a unified diff."""
    found = target.read_bytes() if target.is_file() else b""
    before, after = (data.decode(errors="replace").splitlines() for data in (found, expected))
    return list(difflib.unified_diff(before, after, str(target), "rendered from the records", lineterm=""))


def _figure_problems(folder: Path, plans: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, plan in plans.items():
        path = folder / "figures" / name
        if not path.is_file():
            yield f"{path}: missing; run `fer-bench leaderboard`"
        elif not figures.is_current(path.read_bytes(), plan):
            yield f"{path}: does not show the data of the records; run `fer-bench leaderboard`"
    for path in stray_figures(folder, plans):
        yield f"{path}: no page shows it; delete it, or run `fer-bench leaderboard`"


def stray_figures(folder: Path, plans: dict[str, dict[str, Any]]) -> list[Path]:
    """Return the files in ``figures`` that no plan draws."""
    return sorted(path for path in (folder / "figures").glob("*") if path.name not in plans)


def readable(board: Path) -> list[str]:
    """List what keeps the board from being rendered at all."""
    try:
        return record_problems(board)
    except UserError as error:
        return [str(error)]
