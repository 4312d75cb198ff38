"""The diagnosis of a row among the others of its board: as tables for the command, and short for the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_bench import records
from fer_bench.data import EMOTIONS
from fer_bench.diagnosis import CONFIDENT, Diagnosis, Measured, Suggestion, diagnose, suggest
from fer_bench.diagnosis.mistakes import Band, ClassRecall, Confusion, Group, Mistake, Partner
from fer_bench.ensemble.votes import soft_vote
from fer_bench.errors import UserError
from fer_bench.leaderboard import ablations, alike
from fer_bench.leaderboard.ablations import Effect
from fer_bench.leaderboard.markdown import NOTHING, details, escape, listing, percent, points, table
from fer_bench.leaderboard.rows import TEST, VALIDATION, Board, Record, Row, read

SHORT = 3  # confusions in the short form
MOST_PARTNERS = 5

CONFUSED = ("classes", "errors", "which way", "share of errors %")
GROUPED = ("images with", "images", "accuracy %", "errors", "share of errors %")
CALIBRATED = ("confidence %", "images", "mean confidence %", "accuracy %", "difference, points")
RECALLED = ("class", "images", "recall %", "precision %", "median recall %", "best recall %", "best row")
MENDING = ("row", "accuracy %", "right in these errors", "share of errors %")
VOTED = "vote of both %"
SURE = ("row", "label", "seen", "confidence %", "FER+ has the label", "twin in Training")


@dataclass(frozen=True)
class Sheet:
    """A table before it is markdown or text; ``align`` is one letter a column."""

    title: str
    head: tuple[str, ...]
    rows: list[list[str]]
    align: str


def examine(
    folder: Path, name: str, part: str = VALIDATION, view: str | None = None
) -> tuple[Record, Diagnosis, list[Suggestion]]:
    """Diagnose a row of a board folder by its lowest seed (or ``NAME.s1``), and suggest what to try next.

    Raises:
        UserError: an unknown row, part or view set.
    """
    record, board = records.called(folder, name), read(folder)
    parts = [stored for stored in record["figures"] if stored in (VALIDATION, TEST)]
    if part not in parts:
        raise UserError(f"--part {part}: {record['name']} stores {', '.join(parts)}")
    if view and view not in record["views"]:
        raise UserError(f"--view {view}: {record['name']} stores {', '.join(record['views'])}")
    found = of_record(board, record, part, view)
    return record, found, suggest(found, record, _measured(board, ablations.measure(board)))


def of_record(board: Board, record: Record, part: str, view: str | None = None) -> Diagnosis:
    """Diagnose one record beside the single models of its board that were made on the same data."""
    assert board.folder is not None
    arrays, view = records.arrays(board.folder, record), view or record["headline"]
    fair = any(row.name == record["name"] for row in board.fair)
    audit = board.audit if fair else None
    return diagnose(
        records.stem_of(record) if record["seed"] or record.get("fold") is not None else record["name"],
        part,
        view,
        arrays[f"{part}/labels"],
        arrays[f"{part}/{view}"],
        others=_others(board, record, part) if fair else {},
        voted=_voted(board, record, arrays, view) if fair and part == VALIDATION else None,
        twins=audit.twins_of(part) if audit else None,
        agrees=audit.agreeing_of(part) if audit else None,
    )


def _others(board: Board, record: Record, part: str) -> dict[str, np.ndarray]:
    """Masks (N,) of right answers of the other single models."""
    rows = _other_rows(board, record)
    if part == TEST:
        return {row.name: row.right() for row in rows}
    return {row.name: row.validated[row.headline] for row in rows if row.headline in row.validated}


def _voted(board: Board, record: Record, arrays: dict[str, np.ndarray], view: str) -> dict[str, np.ndarray] | None:
    """Masks (N,) of right answers of a vote with each of the other single models on PublicTest; None of an ensemble."""
    if record["kind"] == "ensemble":  # one more member is no half of its vote
        return None
    own, labels = arrays[f"{VALIDATION}/{view}"], arrays[f"{VALIDATION}/labels"]
    rows = [(row.name, row.validation) for row in _other_rows(board, record)]
    return {name: soft_vote([own, other]).argmax(axis=1) == labels for name, other in rows if other is not None}


def _other_rows(board: Board, record: Record) -> list[Row]:
    """The single models of the board; the record itself and its members are left out."""
    own = {record["name"], *(member["name"] for member in record.get("members", ()))}
    return [row for row in board.fair if not row.is_ensemble and row.name not in own]


def _measured(board: Board, effects: Sequence[Effect]) -> list[Measured]:
    """Those that a setting of the training made; each may hold for rows that start as its base does.

    Pretraining may hold for the same network: others may have no such weights.
    """
    settings = {row.name: records.settings(row.record["identity"]) for row in alike.members(board)}
    found = []
    for effect in effects:
        if effect.contrast.setting:
            key, before, after = effect.contrast.setting
            names = effect.contrast.base.title, effect.contrast.changed.title
            shared = "backbone" if key == "pretrained" else "pretrained"
            same = {shared: settings[names[0]].get(shared)}
            found.append(Measured(key, before, after, same, effect.contrast.change, names, *effect.validation))
    return found


# ---- tables


def heading(found: Diagnosis) -> str:
    """One line: what was looked at, and how it does."""
    return (
        f"{found.title} on {found.part}, views {found.view}: {found.right:,} of {found.images:,} right "
        f"({percent(found.accuracy)} %), {found.errors:,} wrong; mean confidence {percent(found.confidence)} %, "
        f"ECE {percent(found.ece)} %"
    )


def advice(found: Diagnosis, suggested: Sequence[Suggestion]) -> list[str]:
    """One line a suggestion, or the reason why there is none."""
    if found.part != VALIDATION:
        return [f"nothing is suggested from {found.part}, which chooses nothing: leave --part away"]
    if not suggested:
        return ["no figure crosses a threshold that suggests a next step"]
    return [f"- {one.finding}. Try: {one.idea}." for one in suggested]


def sheets(found: Diagnosis, top: int) -> list[Sheet]:
    """All that was counted, at most ``top`` lines a table of confusions and mistakes."""
    confident = f"{len(found.mistakes):,} of {found.confident:,} predictions with confidence {CONFIDENT:g} or more"
    named = [
        Sheet("Most confused", CONFUSED, [_confused(pair) for pair in found.confusions[:top]], "lrlr"),
        Sheet("Errors by kind of image", GROUPED, [_grouped(group) for group in found.groups], "lrrrr"),
        Sheet("Confidence", CALIBRATED, [_calibrated(band) for band in found.bands if band.images], "lrrrr"),
        Sheet(
            "Classes beside the other single models", RECALLED, [_recalled(line) for line in found.classes], "lrrrrrl"
        ),
        _beside(found),
        Sheet(f"Confident mistakes: {confident}", SURE, [_sure(one) for one in found.mistakes[:top]], "rllrll"),
    ]
    return [sheet for sheet in named if sheet.rows]


def _beside(found: Diagnosis) -> Sheet:
    head = MENDING if found.vote is None else (*MENDING, VOTED)
    rows = [_mending(found, partner) for partner in found.partners[:MOST_PARTNERS]]
    return Sheet("Other rows on these errors", head, rows, "l" + "r" * (len(head) - 1))


def _confused(pair: Confusion) -> list[str]:
    first, second = EMOTIONS[pair.first], EMOTIONS[pair.second]
    ways = f"{pair.first_as_second} {first} as {second}, {pair.second_as_first} {second} as {first}"
    return [f"{first}, {second}", f"{pair.errors:,}", ways, percent(pair.share)]


def _grouped(group: Group) -> list[str]:
    errors = group.images - group.right
    return [group.name, f"{group.images:,}", percent(group.accuracy), f"{errors:,}", percent(group.share)]


def _calibrated(band: Band) -> list[str]:
    difference = NOTHING if band.accuracy is None else points(band.accuracy - (band.confidence or 0))
    between = f"{100 * band.low:g} to {100 * band.high:g}"
    return [between, f"{band.images:,}", percent(band.confidence), percent(band.accuracy), difference]


def _recalled(line: ClassRecall) -> list[str]:
    shares = (line.recall, line.precision, line.median, line.best)
    return [EMOTIONS[line.code], f"{line.images:,}", *map(percent, shares), line.best_name or NOTHING]


def _mending(found: Diagnosis, partner: Partner) -> list[str]:
    share = percent(partner.mended / found.errors if found.errors else None)
    cells = [partner.name, percent(partner.accuracy), f"{partner.mended:,}", share]
    return cells if found.vote is None else [*cells, percent(partner.voted)]


def _sure(one: Mistake) -> list[str]:
    known = [{None: NOTHING, True: "yes", False: "no"}[fact] for fact in (one.agrees, one.twin)]
    return [str(one.row), EMOTIONS[one.label], EMOTIONS[one.predicted], percent(one.confidence), *known]


# ---- the short form


def section(board: Board, effects: Sequence[Effect]) -> str:
    """Return what the single model that PublicTest prefers gets wrong and what that suggests; "" without one."""
    best = board.preferred(ensemble=False)
    if best is None:
        return ""
    found = of_record(board, best.record, VALIDATION)
    if not found.errors:
        return ""
    suggested = suggest(found, best.record, _measured(board, effects))
    folded = "\n\n".join(f"**{sheet.title}**\n\n{_markdown(sheet)}" for sheet in sheets(found, SHORT))
    command = f"`fer-bench errors {best.name}` shows more, also of other rows."
    ideas = "\n".join(map(escape, advice(found, suggested)))
    how = "What its figures suggest, each with its threshold:"
    return "\n\n".join([_summary(found), how, ideas, details("The counts", folded), command])


def _summary(found: Diagnosis) -> str:
    pairs = [
        f"{EMOTIONS[pair.first]} and {EMOTIONS[pair.second]} ({pair.errors:,}, {100 * pair.share:.1f} %)"
        for pair in found.confusions[:SHORT]
    ]
    against = [one.agrees for one in found.mistakes].count(False)
    doubt = f"; FER+ does not confirm the label in {against:,} of these" if found.groups and against else ""
    return (
        f"{found.title}, the single model that {found.part} prefers by the mean over seeds, gets {found.errors:,} of "
        f"its {found.images:,} images wrong; {TEST} chooses neither models nor next steps. Most confused are "
        f"{listing(pairs)}. {len(found.mistakes):,} of {found.confident:,} predictions with a probability of "
        f"{CONFIDENT:g} or more are mistakes{doubt}."
    )


def _markdown(sheet: Sheet) -> str:
    return table(sheet.head, sheet.rows, sheet.align)
