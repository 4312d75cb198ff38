"""The section "What moved the needle": measured gains of single changes as a table and a few sentences."""

from collections.abc import Sequence

from fer_bench.leaderboard import alike, wording
from fer_bench.leaderboard.ablations import Effect
from fer_bench.leaderboard.markdown import NOTHING, details, listing, points_interval, table
from fer_bench.leaderboard.rows import TEST, VALIDATION, Board

MOST = 30  # lines in view, those with the lowest p; the others are folded

HEAD = (
    "what changed",
    "base",
    "changed",
    f"{VALIDATION}, points [95 %]",
    "p",
    "p, Holm",
    f"{TEST}, points [95 %]",
    "passes",
)
HOW = (
    "Rows of this board that differ in one thing, compared image by image: one setting of the training, the test-time "
    "views, the number of seeds or the members of a vote. Where several rows differ in the same setting, each is "
    f"compared with the same base. Ordered by the gain on {VALIDATION}, which a choice may go by; {TEST} "
    "chooses nothing here and shows whether the gain holds. In brackets a 95 % paired bootstrap interval over images, "
    "averaged over the seeds (or rows) named; it does not cover the luck of a seed. p is of an exact paired test on "
    f"{VALIDATION}, for the line alone and Holm-corrected over all lines; the {MOST} lines with the lowest p are in "
    "view. What runs took stands under *What each row is and costs*: other machines, versions and hours made them."
)


def section(board: Board, effects: Sequence[Effect]) -> str:
    """Return the table of what ``ablations.measure`` found and how to read it; "" where nothing can be compared."""
    if not effects:
        return ""
    clearest = sorted(effect.p for effect in effects)[:MOST][-1]
    shown = [effect for effect in effects if effect.p <= clearest]
    folded = [effect for effect in effects if effect.p > clearest]
    parts = [HOW, _table(shown)]
    if folded:
        parts.append(details(f"{len(folded)} more, those with the highest p", _table(folded)))
    return "\n\n".join([*parts, *_notes(board, effects)])


def _table(effects: Sequence[Effect]) -> str:
    return table(HEAD, [_line(effect) for effect in effects], "lllrrrrr")


def _line(effect: Effect) -> list[str]:
    base, changed = effect.contrast.base, effect.contrast.changed
    return [
        effect.contrast.change + (f" ({effect.repeats} seeds)" if effect.is_ablation and effect.repeats > 1 else ""),
        base.title,
        changed.title,
        points_interval(*effect.validation),
        _p(effect.p),
        _p(effect.holm),
        points_interval(*effect.test),
        _from_to(*(str(side.passes) for side in (base, changed))),
    ]


def _p(p: float) -> str:
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def _from_to(before: str, after: str) -> str:
    return NOTHING if before == after == NOTHING else before if before == after else f"{before} → {after}"


def _notes(board: Board, effects: Sequence[Effect]) -> list[str]:
    """Say what the table leaves out."""
    notes = []
    if not any(effect.is_ablation for effect in effects):
        notes.append(
            "No two single models differ in exactly one setting of their training; `suites/ablation.yaml` trains some."
        )
    if crowded := alike.crowds(alike.members(board)):
        said = listing([f"{count} in {wording.name(key)}" for key, count in crowded])
        notes.append(
            f"Not paired here, because more than {alike.CROWD} rows differ in one setting alone: {said}; "
            "Results ranks them."
        )
    return notes
