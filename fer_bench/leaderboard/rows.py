"""Records of a board folder -> rows in their order, with everything that is computed across rows."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from fer_bench import metrics, records
from fer_bench.audit import Audit
from fer_bench.audit import load as load_audit
from fer_bench.files import canonical_json, sha256_bytes
from fer_bench.leaderboard.gains import Gain, over_best_member
from fer_bench.leaderboard.published import Published
from fer_bench.leaderboard.published import load as load_published

TEST, VALIDATION, FIT = "PrivateTest", "PublicTest", "Training"
LEVEL = 0.05  # family-wise, for all pairs of rows together
DAGGER = "†"  # marks the rows that were submitted, and ensembles that hold one
DOUBLE_DAGGER = "‡"  # marks the rows whose settings a study chose

Record = dict[str, Any]
Bins = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Row:
    """All seeds of one name. ``seeds[0]`` has the lowest seed: the one that is declared for tests and matrices."""

    name: str
    seeds: tuple[Record, ...]
    labels: np.ndarray  # (N,) uint8, PrivateTest
    predicted: dict[str, np.ndarray]  # view set -> (N,) uint8 class on PrivateTest, of the declared seed
    flag: str = ""  # digest of its data, where that is not the board's
    validated: dict[str, np.ndarray] = field(default_factory=dict)  # view set -> (N,) right on PublicTest, if stored
    validation: np.ndarray | None = None  # (N, 7) float16, PublicTest with the headline's views, if stored

    @property
    def record(self) -> Record:
        """The record of the declared seed."""
        return self.seeds[0]

    @property
    def is_ensemble(self) -> bool:
        """Whether the row combines other rows."""
        return self.record["kind"] == "ensemble"

    @property
    def is_external(self) -> bool:
        """Whether other software made the row's probabilities."""
        return self.record["kind"] == "external"

    @property
    def holds_external(self) -> bool:
        """Whether the row combines one that other software made: such members have no seed."""
        return any(source["seed"] is None for source in self.record.get("members", ()))

    @property
    def tuned(self) -> dict[str, Any] | None:
        """The study that chose the row's settings, with its number of trials; None where nobody searched."""
        return self.record.get("tuned")

    @property
    def headline(self) -> str:
        """The view set that the row is ranked by."""
        return self.record["headline"]

    def right(self, view: str | None = None) -> np.ndarray:
        """Mask (N,) of the PrivateTest images that the declared seed gets right."""
        return self.predicted[view or self.headline] == self.labels

    def values(self, figure: str, part: str = TEST, view: str | None = None) -> list[float]:
        """One figure of each seed; empty where a view set is not stored."""
        view = view or self.headline
        return [seed["figures"][part][view][figure] for seed in self.seeds if view in seed["figures"].get(part, {})]

    def mean(self, figure: str, part: str = TEST, view: str | None = None) -> float | None:
        """Mean of a figure over seeds, None where a view set is not stored."""
        values = self.values(figure, part, view)
        return fmean(values) if values else None

    def confusion(self, part: str = TEST) -> np.ndarray:
        """Confusion matrix (C, C), rows the truth: counts, for several seeds their mean."""
        counts = [np.array(seed["figures"][part][self.headline]["confusion"]) for seed in self.seeds]
        return sum(counts[1:], counts[0]) / len(counts)


@dataclass(frozen=True)
class Pair:
    """A row against the first: accuracy difference with its 95 % interval, and the corrected p value."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Board:
    """What the page is rendered from."""

    rows: tuple[Row, ...]  # best first; flagged rows last
    ranks: dict[str, tuple[int, int]] = field(default_factory=dict)  # row name -> best and worst rank
    against_first: dict[str, Pair] = field(default_factory=dict)  # row name -> its pair, the first row left out
    gains: dict[str, Gain] = field(default_factory=dict)  # name of an ensemble -> against its best member
    failures: tuple[Record, ...] = ()
    records: tuple[Record, ...] = ()
    published: Published | None = None
    digest: str = ""
    audit: Audit | None = None  # of the board's own data, or none
    folder: Path | None = None  # where the arrays of further seeds are
    reliability: dict[str, Bins] = field(default_factory=dict)  # leading row -> what metrics.reliability returns

    @cached_property
    def data(self) -> dict[str, Any] | None:
        """The facts of the data that the unflagged rows share; the canonical form's where a row has it."""
        facts = [seed["data"] for row in self.fair for seed in row.seeds] or [f["data"] for f in self.failures]
        return max(facts, key=lambda fact: fact["canonical"], default=None)

    @cached_property
    def toy(self) -> bool:
        """Whether any row was made on the drawn faces."""
        return any(record["data"]["name"] == "toyfaces" for record in self.records)

    @cached_property
    def fair(self) -> tuple[Row, ...]:
        """The rows on the board's own data, which can be compared with each other."""
        return tuple(row for row in self.rows if not row.flag)

    def best(self, *, ensemble: bool) -> Row | None:
        """The first single model or the first ensemble made here, None where there is none."""
        return next((row for row in self.fair if row.is_ensemble == ensemble and not row.is_external), None)

    def preferred(self, *, ensemble: bool) -> Row | None:
        """The single model or the ensemble made here that PublicTest prefers by the mean over seeds, then by name."""
        rows = [row for row in self.fair if row.is_ensemble == ensemble and not row.is_external]
        known = [(mean, row) for row in rows if (mean := row.mean("accuracy", VALIDATION)) is not None]
        return min(known, key=lambda pair: (-pair[0], pair[1].name))[1] if known else None

    @property
    def best_external(self) -> Row | None:
        """The first submitted row, None where there is none: a model or an ensemble, only its source knows."""
        return next((row for row in self.fair if row.is_external), None)

    @cached_property
    def leading(self) -> tuple[Row, ...]:
        """The best single model, the best ensemble and the best submitted row, as far as there are."""
        best = (self.best(ensemble=False), self.best(ensemble=True), self.best_external)
        return tuple(row for row in best if row)


def title(row: Row) -> str:
    """The row's name, with a dagger where other software made (a part of) it, or the trials of the study behind it."""
    if row.tuned:
        return f"{row.name} {DOUBLE_DAGGER}{row.tuned['trials']}"
    return f"{row.name}{DAGGER}" if row.is_external or row.holds_external else row.name


def read(board: Path) -> Board:
    """Read all of a board folder and compute ranks and paired tests.

    Raises:
        UserError: a record or ``published.yaml`` that cannot be read, or an .npz that is not its record's.
    """
    found = records.load_all(board)
    published = load_published(board)
    audited = load_audit(board)
    rows = sorted(_flagged(_rows(board, found)), key=_order)
    fair = [row for row in rows if not row.flag]
    p = pairwise_p(np.array([row.right() for row in fair])) if fair else np.empty((0, 0))
    content = Board(
        rows=tuple(rows),
        ranks=_ranks(fair, p),
        against_first={row.name: _pair(row, fair[0], p[0, i]) for i, row in enumerate(fair) if i},
        gains=_gains(board, found, rows),
        failures=tuple(record for record in found if record["kind"] == "failure"),
        records=tuple(found),
        published=None if any(record["data"]["name"] == "toyfaces" for record in found) else published,
        digest=_digest(found, published, audited),
        audit=audited if audited and fair and all(fits(audited, row) for row in fair) else None,
        folder=board,
    )
    return replace(content, reliability={row.name: _reliability(board, row) for row in content.leading})


def _reliability(board: Path, row: Row) -> Bins:
    """Confidence and accuracy by bin, of the declared seed on PrivateTest."""
    probabilities = records.arrays(board, row.record)[f"{TEST}/{row.headline}"]
    return metrics.reliability(row.right(), metrics.normalised(row.labels, probabilities).max(axis=1))


def _gains(board: Path, found: list[Record], rows: Sequence[Row]) -> dict[str, Gain]:
    known = {records.stem_of(record): record for record in found}
    gains = {r.name: over_best_member(board, known, r.record, r.labels, r.right()) for r in rows if r.is_ensemble}
    return {name: gain for name, gain in gains.items() if gain}


def fits(audited: Audit, row: Row) -> bool:
    """Whether an audit is of the data that a row was made on, row for row."""
    return audited.data.digest == row.record["data"]["digest"] and audited.test_rows == len(row.labels)


def _digest(found: list[Record], published: Published | None, audited: Audit | None) -> str:
    inputs: list[Any] = [found, published.model_dump(mode="json") if published else None]
    if audited:  # a board without the file keeps the digest that it had before there were audits
        inputs.append(audited.model_dump(mode="json"))
    return sha256_bytes(canonical_json(inputs))


def _rows(board: Path, found: list[Record]) -> list[Row]:
    """Group the seeds of each name; records come ordered by seed.

    A failure, a run on a fold, or a record without a test part has no row.
    """
    groups: dict[str, list[Record]] = {}
    for record in found:
        if record["kind"] not in ("failure", "fold") and record["figures"].get(TEST):
            groups.setdefault(record["name"], []).append(record)
    with ThreadPoolExecutor() as pool:  # files are read and unpacked at once: that does not hold the interpreter
        return list(pool.map(lambda group: _row(board, group[0], tuple(group[1])), groups.items()))


def _row(board: Path, name: str, seeds: tuple[Record, ...]) -> Row:
    stored = records.arrays(board, seeds[0])
    predicted = {view: records.predicted(stored[f"{TEST}/{view}"]) for view in seeds[0]["views"]}
    return Row(
        name,
        seeds,
        stored[f"{TEST}/labels"],
        predicted,
        validated=_validated(stored, seeds[0]),
        validation=stored.get(f"{VALIDATION}/{seeds[0]['headline']}"),
    )


def _validated(stored: dict[str, np.ndarray], record: Record) -> dict[str, np.ndarray]:
    labels = stored.get(f"{VALIDATION}/labels")
    views = [] if labels is None else record["views"]
    return {view: records.predicted(stored[f"{VALIDATION}/{view}"]) == labels for view in views}


def _flagged(rows: list[Row]) -> list[Row]:
    """Flag the rows whose data or test labels are not those of most rows: no paired test is possible with them."""
    counts = Counter(_data_key(row) for row in rows)
    own = min(counts, key=lambda key: (-counts[key], key), default=None)
    return [row if _data_key(row) == own else _flag(row) for row in rows]


def _data_key(row: Row) -> tuple[str, str]:
    return row.record["data"]["digest"], sha256_bytes(row.labels.tobytes())


def _flag(row: Row) -> Row:
    return replace(row, flag=row.record["data"]["digest"])


def _order(row: Row) -> tuple[bool, float, str]:
    return bool(row.flag), -(row.mean("accuracy") or 0.0), row.name


def pairwise_p(right: np.ndarray) -> np.ndarray:
    """P values (M, M) of exact McNemar tests between masks of right answers (M, N), Holm-corrected over all pairs.

    All pairs are one family, so a rank range and a comparison with the first row never contradict each other.
    The tests themselves are those of ``metrics.mcnemar_exact``, done for all pairs at once.
    """
    hits, misses = right.astype(np.float32), (~right).astype(np.float32)  # exact for fewer than 2**24 rows
    only = np.rint(hits @ misses.T).astype(np.int64)  # (M, M): row i right where row j is wrong
    upper = np.triu_indices(len(right), k=1)
    p = np.ones(only.shape)
    p[upper] = metrics.holm_array(metrics.sign_test(only[upper], only.T[upper]))
    return np.minimum(p, p.T)


def _ranks(rows: Sequence[Row], p: np.ndarray) -> dict[str, tuple[int, int]]:
    """Best rank = 1 + rows significantly better, worst rank = all rows - rows significantly worse."""
    right = np.array([row.right().sum() for row in rows])
    ranks = {}
    for i, row in enumerate(rows):
        better, worse = ((p[i] < LEVEL) & beats for beats in (right > right[i], right < right[i]))
        ranks[row.name] = 1 + int(better.sum()), len(rows) - int(worse.sum())
    return ranks


def _pair(row: Row, first: Row, p: float) -> Pair:
    return Pair(*metrics.paired_bootstrap(row.right(), first.right()), p=float(p))
