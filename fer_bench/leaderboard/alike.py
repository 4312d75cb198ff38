"""Single models that differ in one setting: found from the identities of all rows at once, without a list by hand."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from fer_bench import records
from fer_bench.files import canonical_json
from fer_bench.leaderboard import wording
from fer_bench.leaderboard.rows import Board, Row
from fer_bench.records.identity import BRING_WEIGHTS, BRINGS_TEACHER

APART = {"seed", "member", "weights_sha256", "teacher_sha256"}
"""Keys of an identity that ``records.settings`` has, and the seed; all others two rows must share."""

CROWD = 12
"""More rows than this that differ in one setting alone are a field that Results ranks, not a study of the setting."""

MOST_PAIRS = 150


def pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return pairs of rows that differ in one setting, base first.

    Of rows that differ in the same setting all stand against one, the most connected: n values make n - 1 pairs, and a
    row around which many things were changed one by one is the base of them all. Where that still makes more than
    MOST_PAIRS (a large grid), only as many as join all rows that can be joined are kept, the most connected first.
    """
    named = {row.name: row for row in rows}
    edges = _edges(named, _neighbours([group for group in groups(rows) if len(group[1]) <= CROWD]))
    found = [edge for key in sorted({key for _, _, key in edges}) for edge in _spanning(edges, key)]
    kept = found if len(found) <= MOST_PAIRS else _spanning(edges)[:MOST_PAIRS]
    return [(named[base], named[other]) for base, other in kept]


def crowds(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """List the settings in which more than CROWD rows differ alone, with the number of rows."""
    return [(key, len(group)) for key, group in groups(rows) if len(group) > CROWD]


def groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Group the single models that are equal but for one setting, or one group of settings: (its name, rows)."""
    settings = [_Settings.of(row.record["identity"]) for row in rows]
    found: dict[tuple[str, frozenset], list[Row]] = defaultdict(list)
    for key in sorted({key for own in settings for key in own.parts}):
        for row, own in zip(rows, settings, strict=True):
            found[key, own.without(key)].append(row)
    return [(key, group) for (key, _), group in found.items() if len(group) > 1]


def _edges(rows: dict[str, Row], near: dict[str, dict[str, str]]) -> list[tuple[str, str, str]]:
    """(Base, other, setting) of all that differ in one: the base is more connected, or has the lower value."""
    between = {frozenset([name, other]): key for name, others in near.items() for other, key in others.items()}

    def order(name: str, key: str) -> tuple[int, tuple[bool, float], str]:
        value = records.settings(rows[name].record["identity"]).get(key)
        return -len(near[name]), wording.lower_first(key, value), name

    ends = sorted((sorted(order(name, key) for name in pair), key) for pair, key in between.items())
    return [(base[2], other[2], key) for (base, other), key in ends]


def _spanning(edges: Sequence[tuple[str, str, str]], only: str | None = None) -> list[tuple[str, str]]:
    """Keep the edges, of one setting or all, that join what none before them joined (Kruskal's spanning forest)."""
    tree = {name: name for base, other, _ in edges for name in (base, other)}
    kept = []
    for base, other, key in edges:
        first, second = tree[base], tree[other]
        if first != second and only in (None, key):
            kept.append((base, other))
            tree.update({name: first for name, root in tree.items() if root == second})
    return kept


def _neighbours(groups: Sequence[tuple[str, list[Row]]]) -> dict[str, dict[str, str]]:
    """Map each row to the rows that differ from it in exactly one setting, and that to the setting."""
    near: dict[str, dict[str, str]] = defaultdict(dict)
    for _, group in groups:
        for a, b in permutations(group, 2):
            changed = records.changed_settings(a.record["identity"], b.record["identity"])
            if len(changed) == 1:
                near[a.name][b.name] = next(iter(changed))
    return dict(near)


def members(board: Board) -> list[Row]:
    """Single models that can be compared in pairs, by name, each run once; what a study chose is no ablation."""
    single = (row for row in board.fair if row.record["kind"] == "member" and not row.tuned)
    rows = sorted(single, key=lambda row: row.name)
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
        fixed = {key: value for key, value in identity.items() if key not in APART}
        pairs = {key: _pairs(key, value) for key, value in own.items()}
        leaves = {name: frozenset([(name, value)]) for found in pairs.values() for name, value in found}
        for key in BRING_WEIGHTS & pairs.keys():
            leaves[key] = pairs[key] | pairs["weights_sha256"]
        leaves[BRINGS_TEACHER] = pairs[BRINGS_TEACHER] | pairs["teacher_sha256"]
        whole = frozenset([("", canonical_json(fixed))]).union(*pairs.values())
        return cls(whole, pairs | leaves)

    def without(self, key: str) -> frozenset:
        return self.whole - self.parts.get(key, frozenset())


def _pairs(key: str, value: Any) -> frozenset:
    """(Dotted name, JSON) of a setting, or of all in a group; an empty group has none."""
    if isinstance(value, dict):
        return frozenset((f"{key}.{name}", canonical_json(inner)) for name, inner in value.items())
    return frozenset([(key, canonical_json(value))])
