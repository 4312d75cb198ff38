"""Figures that cross a threshold -> what to try next. No suggestion without the figure that speaks for it.

The thresholds are rules of thumb, stated in every suggestion; nothing here is fitted.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fer_bench import records
from fer_bench.data import EMOTIONS
from fer_bench.diagnosis.mistakes import CONFIDENT, Diagnosis

ECE = 0.05
LOSS_GAP = 0.3  # nats, PublicTest above Training at the end
LOSS_RISE = 0.05  # nats, PublicTest from its lowest epoch to the last
LOSS_FALL = 0.02  # nats, PublicTest over the last quarter of the epochs
RARE_RECALL = 0.15  # rarest class below the mean of the others
NOISE = 0.5  # of the confident mistakes whose label FER+ does not confirm
FEW = 20  # confident mistakes below which their share says nothing
MEMORY = 0.10  # accuracy with a twin in Training above that without
VIEW = 0.003  # gain of a view set
FIELD = 0.05  # recall of another row above this one's
NEAR = 0.05  # how far apart in accuracy such a row may be
LEVEL = 0.05  # of the test of that difference, corrected for all classes and rows (Bonferroni)

MORE_WEIGHT = {"none": "sqrt", "sqrt": "balanced"}
REGULARISERS = ("augment.shift", "augment.rotate", "augment.scale", "augment.erase", "train.mixup", "train.cutmix",
                "train.label_smoothing", "train.weight_decay")  # fmt: skip

Record = dict[str, Any]


@dataclass(frozen=True)
class Suggestion:
    """A figure with its threshold, and what it suggests."""

    finding: str
    idea: str


@dataclass(frozen=True)
class Measured:
    """An ablation on the board: a setting, its two values, and what the change gained on PublicTest, as shares.

    ``alike`` are settings that a row has to share for the same to be expected of it.
    """

    key: str
    before: Any
    after: Any
    alike: dict[str, Any]
    words: str
    rows: tuple[str, str]
    difference: float
    low: float
    high: float


def suggest(found: Diagnosis, record: Record, measured: Sequence[Measured] = ()) -> list[Suggestion]:
    """Return what the diagnosis of PublicTest and the record's history suggest; nothing for another part."""
    if found.part != "PublicTest":
        return []
    settings = records.settings(record["identity"]) if "member" in record["identity"] else {}
    history = record.get("history") or []
    return [
        *_from_ablations(found, settings, measured),
        *_from_losses(history, settings),
        *_from_calibration(found, settings),
        *_from_rare_class(found, settings),
        *_from_labels(found, settings),
        *_from_twins(found),
        *_from_views(record),
        *_from_other_rows(found),
    ]


def _from_ablations(found: Diagnosis, settings: dict[str, Any], measured: Sequence[Measured]) -> Iterator[Suggestion]:
    """What helped other rows and this row does not have, or hurt some row and it has: an interval leaves 0 out."""
    for gain in measured:
        own = found.title in gain.rows
        alike = all(settings.get(key) == value for key, value in gain.alike.items())
        if not alike or gain.key not in settings:
            continue
        rows = f"from {gain.rows[0]} to {gain.rows[1]}"
        if gain.low > 0 and not own and settings[gain.key] == gain.before:
            interval = f"{_points(gain.difference)} points [{_points(gain.low)}, {_points(gain.high)}]"
            yield Suggestion(f"{gain.words} gained {interval} {rows} (interval above 0)", "the same change here")
        if gain.high < 0 and settings[gain.key] == gain.after:
            interval = f"{_points(-gain.difference)} points [{_points(-gain.high)}, {_points(-gain.low)}]"
            yield Suggestion(f"{gain.words} cost {interval} {rows} (interval leaves 0 out)", "the opposite change here")


def _from_losses(history: Sequence[dict[str, Any]], settings: dict[str, Any]) -> Iterator[Suggestion]:
    losses = [epoch["validation_loss"] for epoch in history]
    if len(losses) < 2 or any(loss is None or not math.isfinite(loss) for loss in losses):
        return
    gap, lowest = losses[-1] - history[-1]["train_loss"], min(losses)
    if gap > LOSS_GAP:
        off = [key.split(".")[1].replace("_", " ") for key in REGULARISERS if settings.get(key) == 0]
        yield Suggestion(
            f"the loss on PublicTest ends {gap:.2f} nats above that on Training (over {LOSS_GAP:g})",
            f"regularise: off here are {', '.join(off)}" if off else "stronger augmentation or a smaller network",
        )
    if losses[-1] - lowest > LOSS_RISE:
        yield Suggestion(
            f"the loss on PublicTest rose by {losses[-1] - lowest:.2f} nats after epoch {losses.index(lowest) + 1} of "
            f"{len(losses)} (over {LOSS_RISE:g})",
            "fewer epochs in a new run, or more regularisation; no epoch is picked afterwards",
        )
    quarter = max(1, len(losses) // 4)
    fall = losses[-1 - quarter] - losses[-1]
    if fall > LOSS_FALL and losses[-1] == lowest:
        yield Suggestion(
            f"the loss on PublicTest still fell by {fall:.3f} nats in the last {quarter} of {len(losses)} epochs "
            f"(over {LOSS_FALL:g})",
            f"more than {len(losses)} epochs",
        )


def _from_calibration(found: Diagnosis, settings: dict[str, Any]) -> Iterator[Suggestion]:
    if found.ece <= ECE:
        return
    smoothing = settings.get("train.label_smoothing")
    now = "" if smoothing is None else f" (now {smoothing:g})"
    sure = found.confidence > found.accuracy
    yield Suggestion(
        f"ECE {_percent(found.ece)} % (over {_percent(ECE)} %): mean confidence {_percent(found.confidence)} % "
        f"against accuracy {_percent(found.accuracy)} %",
        f"too sure: temperature scaling in an ensemble, or more label smoothing{now}"
        if sure
        else f"not sure enough: temperature scaling in an ensemble, or less label smoothing{now}",
    )


def _from_rare_class(found: Diagnosis, settings: dict[str, Any]) -> Iterator[Suggestion]:
    now = settings.get("train.class_weights")
    if now not in MORE_WEIGHT or len(found.classes) < 2:
        return
    rarest, *others = sorted(found.classes, key=lambda line: (line.images, line.code))
    mean = sum(line.recall for line in others) / len(others)
    if mean - rarest.recall > RARE_RECALL:
        yield Suggestion(
            f"recall of {EMOTIONS[rarest.code]}, {_percent(rarest.images / found.images)} % of the images, is "
            f"{_percent(rarest.recall)} %, {_points(mean - rarest.recall)} points below the mean of the other classes "
            f"(over {_points(RARE_RECALL)})",
            f"class weights: {MORE_WEIGHT[now]} (now {now})",
        )


def _from_labels(found: Diagnosis, settings: dict[str, Any]) -> Iterator[Suggestion]:
    known = [mistake.agrees for mistake in found.mistakes if mistake.agrees is not None]
    against = known.count(False)
    if len(known) < FEW or against / len(known) <= NOISE or found.unconfirmed is None:
        return
    clean = next((group for group in found.groups if group.name == "no twin, FER+ agrees"), None)
    where = f" ({_percent(clean.accuracy)} % without twins)" if clean and clean.accuracy is not None else ""
    smoothing = settings.get("train.label_smoothing")
    more = "" if smoothing is None else f"; label smoothing is {smoothing:g}"
    yield Suggestion(
        f"FER+ does not confirm the label in {against} of {len(known)} mistakes with confidence {CONFIDENT:g} or more "
        f"({_percent(against / len(known))} %, over {_percent(NOISE)} %; in {_percent(found.unconfirmed)} % of all "
        "mistakes)",
        f"the labels are the limit there: judge a change by the images where FER+ agrees{where}{more}",
    )


def _from_twins(found: Diagnosis) -> Iterator[Suggestion]:
    twins, rest = found.groups[:1], found.groups[1:]
    if not twins or not twins[0].images or not (images := sum(group.images for group in rest)):
        return
    own, other = twins[0].right / twins[0].images, sum(group.right for group in rest) / images
    if own - other > MEMORY:
        yield Suggestion(
            f"accuracy is {_percent(own)} % on the {twins[0].images} images with a twin in Training, "
            f"{_points(own - other)} points above the others (over {_points(MEMORY)})",
            f"a part of that may be memory: compare by accuracy without twins ({_percent(other)} %)",
        )


def _from_views(record: Record) -> Iterator[Suggestion]:
    figures = record["figures"]["PublicTest"]
    if "none" not in figures:
        return
    gains = {view: figures[view]["accuracy"] - figures["none"]["accuracy"] for view in record["views"]}
    best = max(gains, key=lambda view: gains[view])
    ahead = gains[best] - gains[record["headline"]]
    if ahead > VIEW:
        yield Suggestion(
            f"the views {best} are {_points(ahead)} points above the declared {record['headline']} "
            f"(over {_points(VIEW)})",
            f"declare {best} as the last of `views:` in a new row",
        )


def _from_other_rows(found: Diagnosis) -> Iterator[Suggestion]:
    """A vote with another row, and the class that rows of about the same accuracy know better."""
    vote = found.vote
    if vote and vote.low > 0:
        yield Suggestion(
            f"a vote of equal weights with {vote.name} has {_percent(vote.accuracy)} %, {_points(vote.difference)} "
            f"points [{_points(vote.low)}, {_points(vote.high)}] above the better of the two, {vote.better} (interval "
            f"above 0; the best of {vote.among} such votes, which flatters it)",
            f"an ensemble with {vote.name}",
        )
    near = {partner.name for partner in found.partners if abs(partner.accuracy - found.accuracy) <= NEAR}
    tests = len(found.classes) * len(found.partners)
    gaps = [
        (line.best - line.recall, line)
        for line in found.classes
        if line.best is not None and line.best_p * tests < LEVEL and line.best_name in near
    ]
    gap, line = max(gaps, key=lambda pair: pair[0], default=(0.0, None))
    if line and gap > FIELD:
        yield Suggestion(
            f"recall of {EMOTIONS[line.code]} is {_percent(line.recall)} %, {_points(gap)} points below that of "
            f"{line.best_name} (over {_points(FIELD)}; {_p(line.best_p * tests)} after a correction for {tests} tests)",
            f"what {line.best_name} does otherwise",
        )


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(difference: float) -> str:
    return f"{100 * difference:.2f}".rstrip("0").rstrip(".")
