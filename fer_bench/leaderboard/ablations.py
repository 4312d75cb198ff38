"""What changing one thing gained: pairs of rows that differ in it, found in the records and compared image by image.

No list is kept: two single models are a measured ablation when their identities differ in one setting
(``records.changed_settings``). The same records tell what test-time views, several seeds and more members gain.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from fer_bench import metrics, records
from fer_bench.ensemble import Recipe
from fer_bench.leaderboard import alike, wording
from fer_bench.leaderboard.markdown import listing
from fer_bench.leaderboard.rows import TEST, VALIDATION, Board, Record, Row

Interval = tuple[float, float, float]  # difference, low, high, as shares
Worth = tuple[float, float]  # weight of a vote's member, where there are weights, and its accuracy on PublicTest
Masks = dict[str, np.ndarray]  # part -> (R, N) right answers of R seeds, or of R rows


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two that are compared."""

    title: str
    right: Masks
    passes: int


@dataclass(frozen=True, eq=False)
class Contrast:
    """What is compared: ``change`` in words, and, where a setting made it, which one and its two values."""

    change: str
    base: Side
    changed: Side
    setting: tuple[str, Any, Any] | None = None


@dataclass(frozen=True, eq=False)
class Effect:
    """A contrast with what it gained on both parts; the p values are of PublicTest, alone and Holm-corrected."""

    contrast: Contrast
    validation: Interval
    test: Interval
    p: float
    holm: float

    @property
    def is_ablation(self) -> bool:
        """Whether a setting of the training made it."""
        return self.contrast.setting is not None

    @property
    def repeats(self) -> int:
        """Seeds, or rows, that were averaged."""
        return len(self.contrast.base.right[VALIDATION])


def measure(board: Board) -> list[Effect]:
    """Return every contrast that the board's rows hold, the largest gain on PublicTest first."""
    contrasts = [*of_settings(board), *of_views(board), *of_seeds(board), *of_sizes(board)]
    found = [_effect(contrast) for contrast in contrasts]
    corrected = metrics.holm([effect.p for effect in found])
    effects = [replace(effect, holm=p) for effect, p in zip(found, corrected, strict=True)]
    return sorted(effects, key=_order)


def _effect(contrast: Contrast) -> Effect:
    after, before = contrast.changed.right, contrast.base.right
    validation, test = (metrics.paired_means(after[part], before[part]) for part in (VALIDATION, TEST))
    return Effect(contrast, validation, test, metrics.sign_flip_p(after[VALIDATION], before[VALIDATION]), holm=1.0)


def _order(effect: Effect) -> tuple[float, str, str, str]:
    contrast = effect.contrast
    return -effect.validation[0], contrast.change, contrast.base.title, contrast.changed.title


# ---- one setting


def of_settings(board: Board) -> list[Contrast]:
    """Return the pairs of single models that differ in one setting."""
    found = [_of_setting(board, base, other) for base, other in alike.pairs(alike.members(board))]
    return [contrast for contrast in found if contrast]


def _of_setting(board: Board, base: Row, after: Row) -> Contrast | None:
    """Compare two rows that differ in one setting; the base is the one that has it lower, or off."""
    changed = records.changed_settings(base.record["identity"], after.record["identity"])
    [(key, (first, second))] = changed.items()
    if wording.lower_first(key, second) < wording.lower_first(key, first):
        base, after, first, second = after, base, second, first
    sides = _sides(board, base, after)
    if sides is None:
        return None
    change = wording.change(key, first, second, *(row.record["model"]["weights_origin"] for row in (base, after)))
    before, now = (listing(_precisions(row)) for row in (base, after))
    beside = f"; and {before} → {now}" if before != now and key != "train.precision" else ""
    return Contrast(change + beside, *sides, setting=(key, first, second))


def _precisions(row: Row) -> list[str]:
    """The precisions that a row was trained in, which follow from its machines where its settings leave them open."""
    found = {seed["environment"].get("precision") for seed in row.seeds}
    return sorted(str(precision) for precision in found - {None})


def _sides(board: Board, base: Row, after: Row) -> tuple[Side, Side] | None:
    """Pair two rows on a view set that both have, over the seeds that both have, else on their declared seeds."""
    view = base.headline if base.headline == after.headline else _common_view(base, after)
    if view is None:
        return None
    seeds = [{seed["seed"]: seed for seed in row.seeds} for row in (base, after)]
    shared = sorted(seeds[0].keys() & seeds[1].keys())
    pairs = [[found[seed] for seed in shared] or [row.record] for found, row in zip(seeds, (base, after), strict=True)]
    sides = [_side(board, row, view, chosen) for row, chosen in zip((base, after), pairs, strict=True)]
    return (sides[0], sides[1]) if all(side.right for side in sides) else None


def _common_view(a: Row, b: Row) -> str | None:
    return next((view for view in reversed(a.record["views"]) if view in b.record["views"]), None)


def _side(board: Board, row: Row, view: str, seeds: Sequence[Record]) -> Side:
    return Side(row.name, _right(board, row, view, seeds), row.record["passes"][view])


def _right(board: Board, row: Row, view: str, seeds: Sequence[Record]) -> Masks:
    """Right answers of some seeds of a row on both parts; empty where a part is not stored."""
    found = [_declared(row, view) if seed is row.record else _stored(board, seed, view) for seed in seeds]
    return {part: np.stack([masks[part] for masks in found]) for part in found[0]}


def _declared(row: Row, view: str) -> Masks:
    return {VALIDATION: row.validated[view], TEST: row.right(view)} if view in row.validated else {}


def _stored(board: Board, record: Record, view: str) -> Masks:
    assert board.folder is not None
    stored = records.arrays(board.folder, record)
    both = VALIDATION, TEST
    return {part: records.predicted(stored[f"{part}/{view}"]) == stored[f"{part}/labels"] for part in both}


# ---- the same models, used otherwise


def of_views(board: Board) -> Iterator[Contrast]:
    """Yield each set of test-time views against one view, averaged over the single models that store both."""
    stored = [row for row in alike.members(board) if "none" in row.validated]
    for view in sorted({view for row in stored for view in row.validated} - {"none"}):
        rows = [row for row in stored if view in row.validated]
        title = listing([row.name for row in rows]) if len(rows) <= 3 else f"{len(rows)} single models, their mean"
        sides = [Side(title, _together(rows, v), rows[0].record["passes"][v]) for v in ("none", view)]
        yield Contrast(f"test-time views: none → {view}", sides[0], replace(sides[1], title="the same"))


def _together(rows: Sequence[Row], view: str) -> Masks:
    masks = [_declared(row, view) for row in rows]
    return {part: np.stack([mask[part] for mask in masks]) for part in (VALIDATION, TEST)}


def of_seeds(board: Board) -> Iterator[Contrast]:
    """Yield each vote of one member's seeds against the declared seed."""
    rows = {row.name: row for row in board.fair}
    for vote in _votes(board):
        names, count = {source["name"] for source in vote.record["members"]}, len(vote.record["members"])
        if len(names) == 1 and count > 1 and (single := rows.get(*names)):
            change = f"seeds: 1 → {count}, {vote.record['method']}"
            yield from _contrasts(board, change, single, vote)


def of_sizes(board: Board) -> Iterator[Contrast]:
    """Yield each ensemble against the largest one of the same method whose members are a part of its own."""
    votes = _votes(board)
    members = {vote.name: {(m["name"], m["run_id"]) for m in vote.record["members"]} for vote in votes}
    for vote in votes:
        smaller = [v for v in votes if _recipe(v) == _recipe(vote) and members[v.name] < members[vote.name]]
        if smaller:
            base = max(smaller, key=lambda row: len(members[row.name]))
            size = f"{len(members[base.name])} → {len(members[vote.name])}"
            more = _added(members[base.name], members[vote.name], _worth(board, vote))
            yield from _contrasts(board, f"members of {vote.record['method']}: {size}, with {more}", base, vote)


def _worth(board: Board, vote: Row) -> dict[str, Worth]:
    """What each member, by name, has in a vote: the mean weight of its runs, and its accuracy where it has a row."""
    names = [source["name"] for source in vote.record["members"]]
    shares: dict[str, list[float]] = {name: [] for name in names}
    for name, share in zip(names, vote.record["weights"] or [0.0] * len(names), strict=True):
        shares[name].append(share)
    known = {row.name: row.mean("accuracy", VALIDATION) or 0.0 for row in board.rows}
    return {name: (round(fmean(own), 6), known.get(name, 0.0)) for name, own in shares.items()}


def _added(few: set[tuple[str, str]], many: set[tuple[str, str]], worth: dict[str, Worth]) -> str:
    """What the larger of two sets of members, each a name and a run, has more: other models, seeds of the same."""
    known, added = {name for name, _ in few}, {name for name, _ in many - few}
    by_worth = sorted(added, key=lambda name: (*(-value for value in worth[name]), name))
    other, again = [name for name in by_worth if name not in known], [name for name in by_worth if name in known]
    parts = {"": other, "further seeds of ": again}
    return " and ".join(f"{before}{_named(names)}" for before, names in parts.items() if names)


def _named(names: Sequence[str]) -> str:
    return listing(names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"])


def _votes(board: Board) -> list[Row]:
    """Ensembles of whole runs by name; those of fold runs combine other models."""
    votes = [row for row in board.fair if row.is_ensemble]
    whole = [row for row in votes if all(source.get("fold") is None for source in row.record["members"])]
    return sorted(whole, key=lambda row: row.name)


def _recipe(row: Row) -> Recipe:
    return Recipe.of(row.record["identity"])


def _contrasts(board: Board, change: str, base: Row, vote: Row) -> Iterator[Contrast]:
    view = vote.headline if vote.headline in base.record["views"] else _common_view(vote, base)
    if view:
        sides = [_side(board, row, view, [row.record]) for row in (base, vote)]
        if all(side.right for side in sides):
            yield Contrast(change, sides[0], sides[1])
