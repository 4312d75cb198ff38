"""The board's own tables: results, what a row is, cleaner rows, test-time views, failures."""

import re
from collections.abc import Sequence

import numpy as np

from fer_bench import metrics
from fer_bench.leaderboard import ensembles
from fer_bench.leaderboard.markdown import (
    NOTHING,
    interval,
    listing,
    number,
    p_value,
    percent,
    points_interval,
    table,
)
from fer_bench.leaderboard.rows import LEVEL, Board, Pair, Record, Row, title
from fer_bench.records import stem_of


def results(board: Board) -> str:
    """Rank, accuracy with its interval, and the test against the first row: one line a row."""
    head = [
        "rank",
        "name",
        "accuracy % [95 %]",
        "seeds",
        "one view %",
        "to the first row, points [95 %, uncorrected], p (Holm)",
        "macro-F1 % [95 %]",
        "passes an image",
    ]
    return table(head, [_result(board, row) for row in board.rows], "rlrrrlrr")


def _result(board: Board, row: Row) -> list[str]:
    return [
        rank(board, row),
        f"**{title(row)}**" if row in board.leading else title(row),
        f"{percent(row.mean('accuracy'))} {interval(*accuracy_interval(row))}",
        seeds(row),
        percent(row.mean("accuracy", view="none")),
        _difference(board, row),
        f"{percent(row.mean('macro_f1'))} {interval(*metrics.macro_f1_interval(row.confusion()))}",
        str(row.record["passes"][row.headline] or NOTHING),
    ]


def accuracy_interval(row: Row) -> tuple[float, float]:
    """Wilson interval of the row's accuracy; for several seeds, of their mean count of right answers."""
    return metrics.wilson(round(row.mean("correct") or 0), len(row.labels))


def rank(board: Board, row: Row) -> str:
    """Best and worst rank of a row, as a range where they differ."""
    if row.flag:
        return NOTHING
    low, high = board.ranks[row.name]
    return f"{low}" if low == high else f"{low}–{high}"


def seeds(row: Row) -> str:
    """Number of seeds, with the standard deviation of accuracy over them in points; only trained rows have any."""
    if row.is_ensemble or row.is_external:
        return NOTHING
    values = row.values("accuracy")
    return "1" if len(values) == 1 else f"{len(values)}, sd {100 * np.std(values, ddof=1):.2f}"


def _difference(board: Board, row: Row) -> str:
    if row.flag:
        return f"not comparable: other data, {row.flag[:12]}"
    pair = board.against_first.get(row.name)
    return "first row" if pair is None else f"{points_interval(pair.difference, pair.low, pair.high)}, {verdict(pair)}"


def verdict(pair: Pair) -> str:
    """Say tie, or how sure the difference is."""
    return f"tie ({p_value(pair.p)})" if pair.p >= LEVEL else p_value(pair.p)


def costs(board: Board, prefix: str) -> str:
    """What each row is and what it took; ``prefix`` leads from the page to the board's folder."""
    head = [
        "name",
        "what it is",
        "parameters, M",
        "side, px",
        "start",
        "passes an image",
        "epochs",
        "minutes",
        "hardware",
        "records",
    ]
    found = {stem_of(record): record for record in board.records}
    rows = [_cost(row, found) for row in board.rows]
    links = [_links(row, prefix) for row in board.rows]
    return table(head, [[*cells, link] for cells, link in zip(rows, links, strict=True)], "llrrlrrrll")


def _cost(row: Row, found: dict[str, Record]) -> list[str]:
    if row.is_external:
        return _external_cost(row)
    return _ensemble_cost(row, found) if row.is_ensemble else _member_cost(row)


def _external_cost(row: Row) -> list[str]:
    """What the sender declared."""
    model, passes = row.record["model"], row.record["passes"][row.headline]
    return [
        title(row),
        f"external: {source(row.record['source'])}",
        number(model["parameters"] and model["parameters"] / 1e6, 2),
        NOTHING if model["image_size"] is None else str(model["image_size"]),
        "from scratch" if model["pretraining"] == "none" else model["pretraining"] or NOTHING,
        NOTHING if passes is None else str(passes),
        *[NOTHING] * 3,
    ]


def source(given: str) -> str:
    """Where a submitted row comes from: an address as a link, anything else as it is."""
    if not re.fullmatch(r"https?://[^\s<>\"`\\]+", given):
        return given
    words = given.split("://", 1)[1].rstrip("/").removeprefix("www.").removeprefix("github.com/")
    address = given.translate({ord(mark): f"%{ord(mark):02X}" for mark in "()[]|"})
    return f"[{words.translate({ord(mark): None for mark in '[]|'})}]({address})"


def _member_cost(row: Row) -> list[str]:
    model = row.record["model"]
    return [
        title(row),
        model["backbone"],
        number(model["parameters"] / 1e6, 2),
        str(model["image_size"]),
        (model["weights_origin"] or "pretrained") if model["pretrained"] else "from scratch",
        f"{row.record['passes'][row.headline]} ({row.headline})",
        str(len(row.record["history"])),
        number(_minutes(row.seeds), 1),
        listing(hardware(row.seeds)),
    ]


def _ensemble_cost(row: Row, found: dict[str, Record]) -> list[str]:
    sources = [stem_of(source) for source, _ in ensembles.with_a_say(row.record)]
    members = [found[source] for source in sources if source in found]
    sizes = [member["model"]["parameters"] for member in members if member.get("model", {}).get("parameters")]
    whole = len(sizes) == len(sources)
    minutes = [member["timing"].get("train_seconds") for member in members]
    return [
        title(row),
        f"{ensembles.method(row.record)} of {len(sources)} run{'' if len(sources) == 1 else 's'}",
        number(sum(sizes) / 1e6 if whole else None, 2),
        NOTHING,
        NOTHING,
        f"{row.record['passes'][row.headline]} ({row.headline})",
        NOTHING,
        number(sum(minutes) / 60 if whole and all(minutes) else None, 1),
        listing(hardware(members)) if members else NOTHING,
    ]


def _minutes(seeds: Sequence[Record]) -> float | None:
    """Mean training time of a seed."""
    known = [seed["timing"].get("train_seconds") for seed in seeds]
    return float(np.mean(known)) / 60 if all(value is not None for value in known) else None


def hardware(found: Sequence[Record]) -> list[str]:
    """The machines and precisions that records were made with, each once."""
    facts = [[record["environment"].get(key) for key in ("hardware", "precision")] for record in found]
    return sorted({", ".join(str(fact) for fact in pair if fact) or "unknown" for pair in facts})


def _links(row: Row, prefix: str) -> str:
    files = [(seed["run_id"], f"{prefix}results/{stem_of(seed)}.json") for seed in row.seeds]
    return " ".join(f"[{run[:8]}]({path})" for run, path in files)


def cleaner(board: Board, subsets: dict[str, np.ndarray]) -> str:
    """Accuracy of each row's declared seed on all test images and on each subset, a mask (N,), with its interval."""
    counted = [f"{name}, n = {mask.sum():,}: % [95 %]" for name, mask in subsets.items()]
    rows = [
        [
            title(row),
            percent(float(row.right().mean())),
            *(_share_right(row.right()[mask]) for mask in subsets.values()),
        ]
        for row in board.fair
    ]
    return table(["name", "all images %", *counted], rows, "lrrr")


def _share_right(right: np.ndarray) -> str:
    if not len(right):
        return NOTHING
    return f"{percent(float(right.mean()))} {interval(*metrics.wilson(int(right.sum()), len(right)))}"


def failures(found: Sequence[Record]) -> str:
    """Runs that did not finish, and why."""
    head = ["name", "seed", "reason", "message"]
    rows = [
        [
            record["name"],
            _seed_and_fold(record),
            record["failure"]["reason"],
            record["failure"]["message"],
        ]
        for record in found
    ]
    return table(head, rows)


def run_title(record: Record) -> str:
    """Name, seed and fold of a run."""
    return f"{record['name']} seed {_seed_and_fold(record)}"


def _seed_and_fold(record: Record) -> str:
    if record["seed"] is None:
        return NOTHING
    fold = f", fold {record['fold']}" if record.get("fold") is not None else ""
    return f"{record['seed']}{fold}"
