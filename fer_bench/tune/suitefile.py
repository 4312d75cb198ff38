"""The end of a study as a suite that ``fer-bench run`` takes: the tuned setting and the default one, fresh seeds."""

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fer_bench.config import Member, Suite, identity_of
from fer_bench.files import canonical_json, sha256_bytes
from fer_bench.tune.budget import counted
from fer_bench.tune.display import duration, percent
from fer_bench.tune.result import Comparison, Result, tuned_member
from fer_bench.tune.space import Space

SEEDS = (1, 2, 3)
"""Fresh ones: every trial trained with seed 0."""
HOME = Path("suites", "tuned")


@dataclass(frozen=True)
class Facts:
    """What the head of the file says beside the result."""

    path: Path
    name: str
    """The suite's, behind ``tuned-``."""
    data: str
    scored: str
    """On what the trials were scored, as a phrase."""
    hardware: str
    time: str


def suite_text(result: Result, space: Space, facts: Facts) -> str:
    """The file's text."""
    assert result.best is not None
    title = result.name.rpartition("-")[0]
    tuned = {"study": result.digest[:16], "trials": result.counts.ended}
    members = [_member(f"{title}-tuned", tuned_member(space, result.best), tuned)]
    if not result.default_won:
        members.append(_member(f"{title}-default", space.member, None))
    suite = {"suite": f"tuned-{facts.name}", "data": facts.data, "seeds": list(SEEDS), "members": members}
    Suite.model_validate(suite)
    body = yaml.safe_dump(suite, sort_keys=False, default_flow_style=None, width=100)
    editor = ["# yaml-language-server: $schema=../schema.json", "#"] if facts.path.parent == HOME else []
    return "\n".join([*editor, *_head(result, facts, title), body])


def body_of(text: str) -> str:
    """The suite of a file without its head, where people write what they measured since."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#")).strip()


def _head(result: Result, facts: Facts, title: str) -> list[str]:
    counts = result.counts
    ended = f"{counted(counts.ended)} ended ({counts.complete} complete, {counts.pruned} pruned)"
    told = {
        "command": f"fer-bench run {facts.path.as_posix()}",
        "hardware": facts.hardware,
        "time": facts.time,
        "expected": f"not measured; {_expected(result)}",
        "study": f"{result.name}, digest {result.digest}",
        "budget": f"{ended}, {counts.failed} failed, {duration(result.seconds)} of work; pruning: {result.pruner}",
        "scored": facts.scored,
    }
    question = (
        f"What does tuning {title} gain over its default setting, with seeds that no trial has seen? The best of "
        f"{counted(counts.ended)}, and the setting that the search began with. Written by fer-bench tune."
    )
    lines = [*textwrap.wrap(question, 116), ""]
    for key, text in told.items():
        lines += textwrap.wrap(f"{key + ':':<11}{text}", 116, subsequent_indent=" " * 11)
    return [f"# {line}".rstrip() for line in lines]


def _expected(result: Result) -> str:
    assert result.best is not None
    best = f"on the holdout the best trial has {percent(result.best.value)}"
    if result.default_won:
        return f"{best}: the default setting, which no trial beat"
    default = f"the default {percent(result.default.value)}" if result.default else "the default is not complete"
    gain = f" ({in_points(result.comparison)})" if result.comparison else ""
    return f"{best} and {default}{gain}; the best of many is flattered by chance"


def in_points(found: Comparison) -> str:
    """A comparison as ``+0.52 points [-0.10, +1.13], p = 0.097``."""
    difference, low, high = (f"{100 * value:+.2f}" for value in (found.difference, found.low, found.high))
    p = "p < 0.001" if found.p < 0.0005 else f"p = {found.p:.3f}"
    return f"{difference} points [{low}, {high}], {p}"


def _member(kind: str, member: Member, tuned: Mapping[str, Any] | None) -> dict[str, Any]:
    """A member in full, so that no later default can change what was tuned.

    It is named by its setting: a name on a board means one setting for ever, and a study that goes on finds another.
    """
    raw = member.model_dump(mode="json", exclude={"name", "tuned"}, exclude_none=True)
    name = f"{kind}-{sha256_bytes(canonical_json(identity_of(member)))[:6]}"
    return {"name": name, **({"tuned": dict(tuned)} if tuned else {}), **raw}


def slug(backbone: str) -> str:
    """A backbone's name as part of a file's or a member's: lower case, at most 40 characters."""
    return re.sub(r"[^a-z0-9._-]+", "-", backbone.lower()).strip("-._")[:40]
