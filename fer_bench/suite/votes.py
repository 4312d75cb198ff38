"""Records of members -> records of ensembles, without any training and without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import leaderboard, metrics, records
from fer_bench.config import Ensemble, Suite, load_suite
from fer_bench.ensemble import Combined, Recipe, combine_records, passes
from fer_bench.errors import UserError
from fer_bench.suite.environment import combining
from fer_bench.suite.outcome import Outcome, score_line
from fer_bench.suite.progress import Display

PARTS = ("PublicTest", "PrivateTest")

Key = tuple[str, int | None, int | None]
"""Name, seed and fold of a run."""


def run_ensembles(path: Path, board: Path, display: Display, *, force: bool = False) -> Outcome:
    """Build the ensembles of a suite from the records of a board, and render its page.

    Raises:
        UserError: for a suite without ensembles, or a board that does not exist.
    """
    suite = load_suite(path)
    if not suite.ensembles:
        raise UserError(f"{path}: ensembles: is empty, so there is nothing to build")
    if not board.is_dir():
        raise UserError(f"{board}: no such folder; name the board that holds the members with --board")
    refuse_taken_names(board, suite)
    outcome = Outcome()
    build_all(board, suite, outcome, display, force=force)
    outcome.board_file = leaderboard.write(board)
    return outcome


def build_all(
    board: Path,
    suite: Suite,
    outcome: Outcome,
    display: Display,
    *,
    force: bool,
    seeds: Sequence[int] = (),
    members: Sequence[str] = (),
) -> None:
    """Add the suite's ensembles to the board and the outcome; one that lacks a member is withheld.

    ``seeds`` take the place of the suite's. Such an ensemble is withheld, too, where the board has one of that name
    over other members, unless ``force``: the suite says what a name means, and what was asked for once does not.
    With ``members`` only ensembles that have one of them are built, and one that lacks a run is left as it is: nobody
    asked for it.
    """
    asked = suite.model_copy(update={"seeds": tuple(seeds or suite.seeds)})
    if suite.ensembles and set(asked.seeds) != set(suite.seeds):
        display.say(f"ensembles are over {_seeds(asked)} as asked for, not over the suite's {_seeds(suite)}")
    for ensemble in suite.ensembles:
        if members and not set(members) & set(ensemble.members):
            continue
        why = _why_withheld(board, suite, asked, ensemble, force)
        if why and members:
            display.say(f"{ensemble.name}: {_untouched(board, ensemble)}, {why}")
            continue
        if why:
            outcome.withheld[ensemble.name] = why
            display.say(f"{ensemble.name}: withheld, {why}")
            continue
        record = build_ensemble(board, asked, ensemble, force=force)
        outcome.records.append(record)
        display.say(f"{ensemble.name}: {score_line(record)}")


def _untouched(board: Path, ensemble: Ensemble) -> str:
    return "left as it is" if records.find(board, ensemble.name, None) else "not built"


def _seeds(suite: Suite) -> str:
    return f"seed{'s' if len(suite.seeds) > 1 else ''} {', '.join(map(str, suite.seeds))}"


def _why_withheld(board: Path, suite: Suite, asked: Suite, ensemble: Ensemble, force: bool) -> str | None:
    """Say why an ensemble cannot be built over the seeds asked for, or None where it can."""
    if missing := missing_members(board, asked, ensemble):
        return f"it lacks {_shortened(missing)}"
    return _alone(asked, ensemble) or _over_other_runs(board, suite, asked, ensemble, force)


def _alone(asked: Suite, ensemble: Ensemble) -> str | None:
    if len(ensemble.members) * len(asked.seeds) + len(ensemble.submitted) < 2 and not ensemble.of_folds:
        return f"{ensemble.members[0]} over {_seeds(asked)} alone is no vote"
    return None


def _over_other_runs(board: Path, suite: Suite, asked: Suite, ensemble: Ensemble, force: bool) -> str | None:
    existing = records.find(board, ensemble.name, None)
    if force or existing is None or set(asked.seeds) == set(suite.seeds):
        return None
    run_ids = {record["run_id"] for record in _members(board, asked, ensemble).values() if record}
    if run_ids == {source["run_id"] for source in existing["members"]}:
        return None
    return f"the board has it over other runs; `fer-bench ensemble` builds it over {_seeds(suite)}, --force over these"


def missing_members(board: Path, suite: Suite, ensemble: Ensemble) -> list[str]:
    """Which finished runs, or view sets of theirs, an ensemble lacks: it is withheld then, never silently smaller."""
    return list(_missing(suite, ensemble, _members(board, suite, ensemble)).values())


def _missing(suite: Suite, ensemble: Ensemble, members: Mapping[Key, dict[str, Any] | None]) -> dict[Key, str]:
    missing = {}
    folds = {member.name: member.folds for member in suite.members}
    for key, record in members.items():
        title = _title(suite, key)
        if key[1] is None:
            if why := _unusable(record):
                missing[key] = f"{title}, {why}"
        elif record is None or not _takes_part(record, None if key[2] is None else folds[key[0]]):
            missing[key] = title
        elif lacking := [view for view in ensemble.views if view not in record["views"]]:
            missing[key] = f"{', '.join(lacking)} of {title}"
    return missing


def _title(suite: Suite, key: Key) -> str:
    name, seed, fold = key
    if seed is None:
        return f"the submitted row {name}"
    of = next(member.folds for member in suite.members if member.name == name)
    return f"{name} seed {seed}" + ("" if fold is None else f" fold {fold} of {of}")


def _shortened(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _unusable(record: dict[str, Any] | None) -> str | None:
    """Say why a row that the suite lists as submitted cannot take part in an ensemble, or None."""
    if record is None or record["kind"] != "external":
        return "which `fer-bench submit` adds" if record is None else f"which is of kind {record['kind']}"
    return None if record["passes"][record["headline"]] else "whose passes are not stated (`fer-bench submit --passes`)"


def _takes_part(record: dict[str, Any] | None, of: int | None) -> bool:
    """Whether a run is finished, and is on one of ``of`` folds, or on all of Training where that is None."""
    if record is None or record["kind"] != ("member" if of is None else "fold"):
        return False
    return of is None or record["identity"]["fold"]["of"] == of


def _members(board: Path, suite: Suite, ensemble: Ensemble) -> dict[Key, dict[str, Any] | None]:
    """Return the records that an ensemble needs, by name, seed and fold (None where it is of no folds)."""
    members = {member.name: member for member in suite.members}
    runs: list[Key] = [
        (name, seed, fold)
        for name in ensemble.members
        for seed in suite.seeds
        for fold in (range(members[name].folds or 0) if ensemble.of_folds else [None])
    ]
    runs += [(name, None, None) for name in ensemble.submitted]
    return {run: records.find(board, *run) for run in runs}


def foreseen(
    board: Path,
    suite: Suite,
    open_runs: Mapping[Key, str],
    *,
    force: bool,
    seeds: Sequence[int] = (),
    members: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Say as rows what ``build_all`` would make of each ensemble of a suite once its runs are done.

    ``open_runs`` are those that are not done yet, each with the reason why this call will not do it, or "".
    """
    asked = suite.model_copy(update={"seeds": tuple(seeds or suite.seeds)})
    rows = []
    for ensemble in suite.ensembles:
        if members and not set(members) & set(ensemble.members):
            continue
        state, does = _foreseen(board, suite, asked, ensemble, open_runs, force)
        if members and state == "withheld":
            does = does.replace("withheld:", f"{_untouched(board, ensemble)}:", 1)
        row = {"kind": "ensemble", "name": ensemble.name, "seed": None, "method": ensemble.method, "state": state}
        rows.append(row | {"runs": len(_members(board, asked, ensemble)), "does": does})
    return rows


def _foreseen(
    board: Path, suite: Suite, asked: Suite, ensemble: Ensemble, open_runs: Mapping[Key, str], force: bool
) -> tuple[str, str]:
    """Return the state of an ensemble and what a run does with it, in words."""
    members = _members(board, asked, ensemble)
    missing = _missing(suite, ensemble, members)
    waits = [key for key in members if open_runs.get(key) == ""]
    if never := [f"{missing[key]} {open_runs.get(key, 'is missing')}" for key in missing if key not in waits]:
        return "withheld", f"withheld: {_shortened(never, 2)}"
    if why := _alone(asked, ensemble) or _over_other_runs(board, suite, asked, ensemble, force):
        return "withheld", f"withheld: {why}"
    if waits:
        return "waits", f"built after {_shortened([_title(suite, key) for key in waits], 2)}"
    existing = records.find(board, ensemble.name, None)
    identity = _identity(suite, ensemble, _recipe(ensemble), [record for record in members.values() if record])
    if existing and existing["run_id"] == records.run_id(identity) and not force:
        return "done", "up to date"
    return "new", "built from records, in seconds"


def refuse_taken_names(board: Path, suite: Suite) -> None:
    """Raise a UserError where an ensemble's name is that of a row which is none: it would take that row's file."""
    taken = {record["name"]: record["kind"] for record in records.load_all(board) if record["kind"] != "ensemble"}
    for ensemble in suite.ensembles:
        if kind := taken.get(ensemble.name):
            raise UserError(f"ensemble {ensemble.name}: {board} has a row of kind {kind} of that name; rename it")


def build_ensemble(board: Path, suite: Suite, ensemble: Ensemble, *, force: bool = False) -> dict[str, Any]:
    """Combine finished members and save the record, unless it is there; returns it."""
    members = [record for record in _members(board, suite, ensemble).values() if record]
    recipe = _recipe(ensemble)
    identity = _identity(suite, ensemble, recipe, members)
    existing = records.find(board, ensemble.name, None)
    if existing and existing["run_id"] == records.run_id(identity) and not force:
        return existing
    stored = [records.arrays(board, member) for member in members]
    trainings = [records.training_id(member["identity"]) for member in members]
    units = records.units(members)
    combined: dict[str, Combined] = {
        view: combine_records(recipe, trainings, stored, view, units) for view in ensemble.views
    }
    arrays = _arrays(stored, combined)
    record = {
        "schema": records.SCHEMA,
        "kind": "ensemble",
        "name": ensemble.name,
        "seed": None,
        "run_id": records.run_id(identity),
        "identity": identity,
        "protocol": suite.protocol,
        "suite": suite.suite,
        "data": members[0]["data"],
        "members": [{key: m[key] for key in ("name", "seed", "fold", "run_id") if key in m} for m in members],
        **_method(ensemble, recipe, members, combined[ensemble.views[-1]]),
        "views": list(ensemble.views),
        "headline": ensemble.views[-1],
        "passes": {view: passes(members, combined[view], view) for view in ensemble.views},
        "figures": _figures(arrays),
        "looks": [],  # a vote opens no data: it scores what its members stored
        "environment": combining(),
        "timing": {},
    }
    if members[0].get("limited"):
        record["limited"] = members[0]["limited"]
    return records.load(records.save(board, record, arrays))


def _recipe(ensemble: Ensemble) -> Recipe:
    return Recipe(ensemble.method, ensemble.parameters, ensemble.temperature, ensemble.seed, ensemble.fit_on)


def _identity(suite: Suite, ensemble: Ensemble, recipe: Recipe, members: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kind": "ensemble",
        "protocol": suite.protocol,
        **recipe.identity,
        "views": list(ensemble.views),
        "members": sorted(member["run_id"] for member in members),
        "data_digest": members[0]["data"]["digest"],
        "split_digest": members[0]["data"]["split_digest"],
    }


def _method(
    ensemble: Ensemble, recipe: Recipe, members: list[dict[str, Any]], headline: Combined
) -> dict[str, str | list[float] | list[str] | None]:
    """How the members were combined and chosen; weights and choice are those of the headline's view set."""
    stems = [records.stem_of(member) for member in members]
    chosen = {} if headline.chosen is None else {"chosen": [stems[i] for i in headline.chosen]}
    return {
        "method": ensemble.method,
        "weights": None if headline.weights is None else np.round(headline.weights, 6).tolist(),
        **chosen,
        "selection": recipe.selection,
    }


def _arrays(stored: list[dict[str, np.ndarray]], combined: dict[str, Combined]) -> dict[str, np.ndarray]:
    """Return labels and probabilities of both test parts, and of Training where they are out-of-fold."""
    arrays = {f"{part}/labels": stored[0][f"{part}/labels"] for part in PARTS}
    for view, found in combined.items():
        for part, rows in zip(PARTS, (found.validation, found.test), strict=True):
            arrays[f"{part}/{view}"] = records.as_stored(rows)
        if found.training is not None and found.training_labels is not None:
            arrays["Training/labels"] = found.training_labels
            arrays[f"Training/{view}"] = records.as_stored(found.training)
    return arrays


def _figures(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the figures of every stored part and view set."""
    found: dict[str, dict[str, Any]] = {}
    for part, view in (key.split("/") for key in arrays):
        if view != "labels":
            figures = metrics.figures(arrays[f"{part}/labels"].astype(np.int64), arrays[f"{part}/{view}"])
            found.setdefault(part, {})[view] = figures
    return found
