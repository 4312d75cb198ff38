"""The board's section on ensembles: members, weights, what chose them, and the gain over the best member."""

from collections.abc import Sequence

from fer_bench import metrics
from fer_bench.config import PARAMETERS
from fer_bench.ensemble import Recipe
from fer_bench.leaderboard.markdown import NOTHING, interval, listing, p_value, percent, points_interval, table
from fer_bench.leaderboard.rows import DAGGER, FIT, TEST, VALIDATION, Board, Record, Row, title

MOST_WEIGHTS = 6  # names in a cell


def section(board: Board) -> str:
    """The table and how to read it; "" without ensembles."""
    found = [row for row in board.rows if row.is_ensemble]
    if not found:
        return ""
    recipes = [Recipe.of(row.record["identity"]) for row in found]
    notes = [
        f"*Gain* is on {TEST}, paired over images, with a 95 % bootstrap interval and the p of an exact McNemar test, "
        f"uncorrected. The *best member* is the one that {VALIDATION} prefers, with the same views.",
        *_how(recipes),
        *_out_of_fold(found),
    ]
    return f"{summary(board, found)}\n\n{' '.join(notes)}"


def _how(recipes: Sequence[Recipe]) -> list[str]:
    """Sentences on how the ensembles of a board were chosen, as far as they apply."""
    said = []
    if any(not recipe.is_fitted for recipe in recipes):
        said.append(
            "*Declared* members are named in the suite and count alike; who named them may have known how they do on "
            f"{VALIDATION}, so that their figure there may flatter them."
        )
    if any(recipe.is_fitted and not recipe.of_folds for recipe in recipes):
        said.append(
            f"What was fitted on {VALIDATION} has a cross-fitted score there: each fifth of the images is predicted by "
            "a fit on the others."
        )
    if any(recipe.of_folds for recipe in recipes):
        said.append(
            "Of members with folds, the fold models are averaged, and the best member is one trained on all of "
            "Training, where all of them have such a run."
        )
    if any(recipe.is_fitted and recipe.of_folds for recipe in recipes):
        said.append(
            "What was fitted out-of-fold saw each row of Training as predicted by the fold model that had not seen "
            f"it; {VALIDATION} is then plain validation."
        )
    if any(recipe.method.startswith("stack") for recipe in recipes):
        said.append("A stack has no single weight for a member.")
    if any(recipe.is_fitted for recipe in recipes):
        said.append("Members of weight 0 take no passes and are left out.")
    return said


def _out_of_fold(rows: Sequence[Row]) -> list[str]:
    """What averages of fold models reach on Training, each row predicted by the model that had not seen it."""
    said = []
    for row in rows:
        if figures := row.record["figures"].get(FIT, {}).get(row.headline):
            accuracy, bounds = percent(figures["accuracy"]), interval(*metrics.wilson(figures["correct"], figures["n"]))
            said.append(f"{row.name} {accuracy} % {bounds}")
    return [f"Out-of-fold accuracy on the {FIT} images: {listing(said)}."] if said else []


def summary(board: Board, rows: Sequence[Row]) -> str:
    """One line an ensemble."""
    head = [
        "name",
        "method",
        "members and weights",
        "chosen on",
        "passes an image",
        "best member",
        "gain over it, points [95 %]",
        "p, uncorrected",
    ]
    return table(head, [_line(board, row) for row in rows], "llllrlll")


def _line(board: Board, row: Row) -> list[str]:
    gain = board.gains.get(row.name)
    against = [gain.over, points_interval(gain.difference, gain.low, gain.high), p_value(gain.p)] if gain else []
    return [
        title(row),
        method(row.record),
        members(row.record),
        chosen_on(row.record),
        str(row.record["passes"][row.headline]),
        *(against or [NOTHING] * 3),
    ]


def method(record: Record) -> str:
    """The method, with its temperature and the parameters that are not its defaults."""
    identity = record["identity"]
    given, usual = identity.get("parameters", {}), PARAMETERS[record["method"]]().model_dump(mode="json")
    said = [f"{key.replace('_', ' ')} {value}" for key, value in given.items() if value != usual.get(key)]
    if (temperature := identity.get("temperature", "none")) != "none":
        said.append(f"temperature {temperature}")
    return f"{record['method']} ({', '.join(said)})" if said else record["method"]


def chosen_on(record: Record) -> str:
    """Which rows a choice was fitted to."""
    recipe = Recipe.of(record["identity"])
    if not recipe.is_fitted:
        return "declared"
    return "Training, out-of-fold" if recipe.of_folds else f"{VALIDATION}, cross-fitted"


def with_a_say(record: Record) -> list[tuple[Record, float]]:
    """Members that take part, each with its weight: all but those of weight 0; NaN where a stack has no weights."""
    weights = record["weights"] or [float("nan")] * len(record["members"])
    return [(source, weight) for source, weight in zip(record["members"], weights, strict=True) if weight != 0]


def members(record: Record) -> str:
    """Members with the sum of their runs' weights where these differ, the heaviest first; the number left out."""
    sources = with_a_say(record)
    equal = len(set(record["weights"] or [0])) == 1
    totals: dict[str, float] = {}
    for source, weight in sources:
        totals[source["name"]] = totals.get(source["name"], 0) + weight
    names = list(totals) if equal else sorted(totals, key=lambda name: (-round(totals[name], 2), name))
    said = [_runs(record, name) + ("" if equal else f" {totals[name]:.2f}") for name in names]
    rest = [f"{len(said) - MOST_WEIGHTS} more"] if len(said) > MOST_WEIGHTS + 1 and not equal else []
    left = len(record["members"]) - len(sources)
    return listing((said[:MOST_WEIGHTS] if rest else said) + rest) + (f"; {left} left out" if left else "")


def _runs(record: Record, name: str) -> str:
    """A member's name with the number of its seeds and folds that take part, where there are several."""
    runs = [source for source, _ in with_a_say(record) if source["name"] == name]
    seeds, folds = ({run.get(key) for run in runs} for key in ("seed", "fold"))
    if seeds == {None}:
        return f"{name}{DAGGER}"
    times = f" ×{len(seeds)}" if len(seeds) > 1 else ""
    return f"{name}{times}" + (f" ({len(folds)} folds)" if folds != {None} else "")
