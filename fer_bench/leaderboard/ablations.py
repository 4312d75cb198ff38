"""What changing one thing gained: pairs of rows that differ in it, found in the records and compared image by image.

No list is kept: two single models are a measured ablation when their identities differ in one setting
(``records.changed_settings``). The same records tell what test-time views, several seeds and more members gain.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np

from fer_bench import metrics, records
from fer_bench.ensemble import Recipe
from fer_bench.files import canonical_json
from fer_bench.leaderboard import wording
from fer_bench.leaderboard.markdown import listing
from fer_bench.leaderboard.rows import TEST, VALIDATION, Board, Record, Row
from fer_bench.records.identity import BRING_WEIGHTS

CROWD = 12
"""More rows than this that differ in one setting alone are a field that Results ranks, not a study of the setting."""

Interval = tuple[float, float, float]  # difference, low, high, as shares
Masks = dict[str, np.ndarray]  # part -> (R, N) right answers of R seeds, or of R rows


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two that are compared."""

    title: str
    right: Masks
    minutes: float | None
    passes: int


@dataclass(frozen=True, eq=False)
class Contrast:
    """What is compared: ``change`` in words, and, where a setting made it, which one and its two values."""

    change: str
    base: Side
    changed: Side
    setting: tuple[str, Any, Any] | None = None


@dataclass(frozen=True, eq=False)
class Gain:
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


def measure(board: Board) -> list[Gain]:
    """Return every contrast that the board's rows hold, the largest gain on PublicTest first."""
    contrasts = [*of_settings(board), *of_views(board), *of_seeds(board), *of_sizes(board)]
    found = [_gain(contrast) for contrast in contrasts]
    corrected = metrics.holm([gain.p for gain in found])
    gains = [replace(gain, holm=p) for gain, p in zip(found, corrected, strict=True)]
    return sorted(gains, key=_order)


def _gain(contrast: Contrast) -> Gain:
    after, before = contrast.changed.right, contrast.base.right
    validation, test = (metrics.paired_means(after[part], before[part]) for part in (VALIDATION, TEST))
    return Gain(contrast, validation, test, metrics.sign_flip_p(after[VALIDATION], before[VALIDATION]), holm=1.0)


def _order(gain: Gain) -> tuple[float, str, str, str]:
    contrast = gain.contrast
    return -gain.validation[0], contrast.change, contrast.base.title, contrast.changed.title


# ---- one setting


def of_settings(board: Board) -> list[Contrast]:
    """Return pairs of single models that differ in one setting: as many as join all of them that can be joined.

    n rows make n - 1 contrasts at most, from the most connected rows outwards: a row around which many things were
    changed one by one is the base of them all, and no third pair closes a ring.
    """
    rows = {row.name: row for row in _members(board)}
    near = _neighbours([group for group in alike(board) if len(group[1]) <= CROWD])
    found = [_of_setting(board, rows[base], rows[other]) for base, other in _spanning(_edges(rows, near))]
    return [contrast for contrast in found if contrast]


def _edges(rows: dict[str, Row], near: dict[str, dict[str, str]]) -> list[tuple[str, str]]:
    """Pairs of names that differ in one setting, base first: the most connected, then that with the lowest value."""
    pairs = {frozenset([name, other]): key for name, others in near.items() for other, key in others.items()}

    def order(name: str, key: str) -> tuple[int, tuple[bool, float], str]:
        value = records.settings(rows[name].record["identity"]).get(key)
        return -len(near[name]), wording.lower_first(value), name

    ends = [(*sorted(order(name, key) for name in pair), key) for pair, key in pairs.items()]
    return [(base[-1], other[-1]) for base, other, _ in sorted(ends)]


def _spanning(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Keep the edges, in order, that join what was not joined before (Kruskal's spanning forest)."""
    tree = {name: name for edge in edges for name in edge}
    kept = []
    for edge in edges:
        a, b = (tree[name] for name in edge)
        if a != b:
            kept.append(edge)
            tree.update({name: a for name, root in tree.items() if root == b})
    return kept


def crowds(board: Board) -> list[tuple[str, int]]:
    """List the settings in which more than CROWD rows differ alone, with the number of rows."""
    return [(key, len(group)) for key, group in alike(board) if len(group) > CROWD]


def alike(board: Board) -> list[tuple[str, list[Row]]]:
    """Group the single models that are equal but for one setting, or one group of settings: (its name, rows)."""
    rows = _members(board)
    settings = [_Settings.of(row.record["identity"]) for row in rows]
    groups: dict[tuple[str, frozenset], list[Row]] = defaultdict(list)
    for key in sorted({key for found in settings for key in found.parts}):
        for row, found in zip(rows, settings, strict=True):
            groups[key, found.without(key)].append(row)
    return [(key, found) for (key, _), found in groups.items() if len(found) > 1]


def _neighbours(groups: Sequence[tuple[str, list[Row]]]) -> dict[str, dict[str, str]]:
    """Map each row to the rows that differ from it in exactly one setting, and that to the setting."""
    near: dict[str, dict[str, str]] = defaultdict(dict)
    for _, group in groups:
        for a, b in permutations(group, 2):
            changed = records.changed_settings(a.record["identity"], b.record["identity"])
            if len(changed) == 1:
                near[a.name][b.name] = next(iter(changed))
    return dict(near)


def _members(board: Board) -> list[Row]:
    """Single models that can be compared in pairs, by name, each run once."""
    rows = sorted((row for row in board.fair if row.record["kind"] == "member"), key=lambda row: row.name)
    once: dict[bytes, Row] = {}
    for row in rows:
        once.setdefault(canonical_json({**row.record["identity"], "seed": None}), row)
    return list(once.values())


@dataclass(frozen=True)
class _Settings:
    """All that decides a row but its seed, as hashable (name, JSON) pairs; a group has a name beside its parts'."""

    whole: frozenset
    parts: dict[str, frozenset]

    @classmethod
    def of(cls, identity: dict[str, Any]) -> "_Settings":
        own = records.settings(identity)
        fixed = {key: value for key, value in identity.items() if key not in ("seed", "member", "weights_sha256")}
        pairs = {key: _pairs(key, value) for key, value in own.items()}
        leaves = {name: frozenset([(name, value)]) for found in pairs.values() for name, value in found}
        for key in BRING_WEIGHTS & pairs.keys():
            leaves[key] = pairs[key] | pairs["weights_sha256"]
        whole = frozenset([("", canonical_json(fixed))]).union(*pairs.values())
        return cls(whole, pairs | leaves)

    def without(self, key: str) -> frozenset:
        return self.whole - self.parts.get(key, frozenset())


def _pairs(key: str, value: Any) -> frozenset:
    """(Dotted name, JSON) of a setting, or of all in a group; an empty group has none."""
    if isinstance(value, dict):
        return frozenset((f"{key}.{name}", canonical_json(inner)) for name, inner in value.items())
    return frozenset([(key, canonical_json(value))])


def _of_setting(board: Board, base: Row, after: Row) -> Contrast | None:
    """Compare two rows that differ in one setting; the base is the one that has it lower, or off."""
    changed = records.changed_settings(base.record["identity"], after.record["identity"])
    [(key, (first, second))] = changed.items()
    if wording.lower_first(second) < wording.lower_first(first):
        base, after, first, second = after, base, second, first
    sides = _sides(board, base, after)
    if sides is None:
        return None
    change = wording.change(key, first, second, *(row.record["model"]["weights_origin"] for row in (base, after)))
    return Contrast(change, *sides, setting=(key, first, second))


def _sides(board: Board, base: Row, after: Row) -> tuple[Side, Side] | None:
    """Pair two rows on a view set that both have, over the seeds that both have, else on their declared seeds."""
    view = base.headline if base.headline == after.headline else _common_view(base, after)
    if view is None:
        return None
    seeds = [{seed["seed"]: seed for seed in row.seeds} for row in (base, after)]
    shared = sorted(seeds[0].keys() & seeds[1].keys())
    pairs = [[found[seed] for seed in shared] or [row.record] for found, row in zip(seeds, (base, after), strict=True)]
    note = f" ({len(shared)} seeds)" if len(shared) > 1 else ""
    sides = [_side(board, row, view, chosen, note) for row, chosen in zip((base, after), pairs, strict=True)]
    return (sides[0], sides[1]) if all(side.right for side in sides) else None


def _common_view(a: Row, b: Row) -> str | None:
    return next((view for view in reversed(a.record["views"]) if view in b.record["views"]), None)


def _side(board: Board, row: Row, view: str, seeds: Sequence[Record], note: str = "") -> Side:
    return Side(row.name + note, _right(board, row, view, seeds), _minutes(board, row), row.record["passes"][view])


def _right(board: Board, row: Row, view: str, seeds: Sequence[Record]) -> Masks:
    """Right answers of some seeds of a row on both parts; empty where a part is not stored."""
    found = [_declared(row, view) if seed is row.record else _stored(board, seed, view) for seed in seeds]
    return {part: np.stack([masks[part] for masks in found]) for part in found[0]}


def _declared(row: Row, view: str) -> Masks:
    return {VALIDATION: row.validated[view], TEST: row.right(view)} if view in row.validated else {}


def _stored(board: Board, record: Record, view: str) -> Masks:
    assert board.folder is not None
    arrays = records.arrays(board.folder, record)
    return {part: arrays[f"{part}/{view}"].argmax(axis=1) == arrays[f"{part}/labels"] for part in (VALIDATION, TEST)}


def _minutes(board: Board, row: Row) -> float | None:
    """Mean training time of a seed, of an ensemble the sum over its members; None where a part of it is not known."""
    if row.is_ensemble:
        known = {(record["name"], record["seed"]): record for record in board.records}
        sources = [known.get((source["name"], source["seed"])) for source in row.record["members"]]
        seconds = [source["timing"].get("train_seconds") if source else None for source in sources]
        return None if None in seconds else sum(seconds) / 60
    seconds = [seed["timing"].get("train_seconds") for seed in row.seeds]
    return None if None in seconds else float(np.mean(seconds)) / 60


# ---- the same models, used otherwise


def of_views(board: Board) -> Iterator[Contrast]:
    """Yield each set of test-time views against one view, averaged over the single models that store both."""
    stored = [row for row in _members(board) if "none" in row.validated]
    for view in sorted({view for row in stored for view in row.validated} - {"none"}):
        rows = [row for row in stored if view in row.validated]
        title = listing([row.name for row in rows]) if len(rows) <= 3 else f"{len(rows)} single models, their mean"
        sides = [Side(title, _together(rows, v), None, rows[0].record["passes"][v]) for v in ("none", view)]
        yield Contrast(f"test-time views: none → {view}", sides[0], replace(sides[1], title="the same"))


def _together(rows: Sequence[Row], view: str) -> Masks:
    masks = [_declared(row, view) for row in rows]
    return {part: np.stack([mask[part] for mask in masks]) for part in (VALIDATION, TEST)}


def of_seeds(board: Board) -> Iterator[Contrast]:
    """Yield each vote of one member's seeds against the declared seed."""
    rows = {row.name: row for row in board.fair}
    for vote in board.fair:
        names = {source["name"] for source in vote.record["members"]} if vote.is_ensemble else set()
        count = len(vote.record["members"]) if names else 0
        if len(names) == 1 and count > 1 and (single := rows.get(*names)):
            change = f"seeds: 1 → {count}, {vote.record['method']}"
            yield from _contrasts(board, change, single, vote)


def of_sizes(board: Board) -> Iterator[Contrast]:
    """Yield each ensemble against the largest one of the same method whose members are a part of its own."""
    votes = sorted((row for row in board.fair if row.is_ensemble), key=lambda row: row.name)
    members = {vote.name: {(m["name"], m["run_id"]) for m in vote.record["members"]} for vote in votes}
    for vote in votes:
        smaller = [v for v in votes if _recipe(v) == _recipe(vote) and members[v.name] < members[vote.name]]
        if smaller:
            base = max(smaller, key=lambda row: len(members[row.name]))
            added = sorted({name for name, _ in members[vote.name] - members[base.name]})
            more = listing(added if len(added) <= 3 else [*added[:2], f"{len(added) - 2} more"])
            size = f"{len(members[base.name])} → {len(members[vote.name])}"
            yield from _contrasts(board, f"members of {vote.record['method']}: {size}, with {more}", base, vote)


def _recipe(row: Row) -> Recipe:
    return Recipe.of(row.record["identity"])


def _contrasts(board: Board, change: str, base: Row, vote: Row) -> Iterator[Contrast]:
    view = vote.headline if vote.headline in base.record["views"] else _common_view(vote, base)
    if view:
        sides = [_side(board, row, view, [row.record]) for row in (base, vote)]
        if all(side.right for side in sides):
            yield Contrast(change, sides[0], sides[1])
