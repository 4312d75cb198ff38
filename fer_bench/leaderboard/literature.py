"""Published figures: a summary, one table a class of protocol, and the recalls of published confusion matrices."""

import re
from collections.abc import Sequence

from fer_bench.data import EMOTIONS
from fer_bench.leaderboard import tables
from fer_bench.leaderboard.markdown import NOTHING, details, escape, listing, number, percent, table
from fer_bench.leaderboard.published import Confusion, Method, Published, Source
from fer_bench.leaderboard.rows import TEST, Board

CLASSES: dict[str | None, tuple[str, str]] = {
    "clean": (
        "Clean",
        "chosen on PublicTest or on a part of Training, scored on PrivateTest, as far as the code shows.",
    ),
    "test-selected": (
        "Test-selected",
        "scored on PrivateTest, but the epoch, model or ensemble was picked by its PrivateTest score.",
    ),
    "other split": (
        "Other split",
        "scored on PublicTest, on both test parts together (7,178) or on a random split.",
    ),
    "unverified": ("Unverified", "no code, or not enough of it to tell."),
    "invalid": (
        "Invalid",
        "a leak or an error of evaluation, by the authors' own account or shown by users and the code.",
    ),
    None: ("For orientation", "not a trained system."),
}


def section(published: Published) -> str:
    """The classes in a few lines, then their tables in the order of ``CLASSES``: the clean one open, others folded."""
    intro = (
        "Figures of other people, as published, each under the protocol that it was made with. Where no note "
        "says that probabilities are at hand, they **cannot be tested in pairs** with the rows above, and only *clean* "
        "figures are made as those are. *Others got* is the range that other people reached with the same code or "
        "weights."
    )
    parts = [overview(published), intro]
    for protocol_class, (title, _) in CLASSES.items():
        methods = of_class(published, protocol_class)
        sources = _sources(methods)
        if methods and protocol_class == "clean":
            parts.append(details(f"<b>{title}</b>", methods_table(methods), is_open=True))
            parts.append(details(f"{title}: sources and notes", sources))
        elif methods:
            parts.append(details(f"<b>{title}</b>", f"{methods_table(methods)}\n\n{sources}"))
    return "\n\n".join(parts)


def of_class(published: Published, protocol_class: str | None) -> list[Method]:
    """Methods of one class, by falling accuracy, then name."""
    found = [method for method in published.methods if method.protocol_class == protocol_class]
    return sorted(found, key=lambda method: (-method.accuracy, method.name))


def overview(published: Published) -> str:
    """One line a class: what it means, how many figures it has and how far they reach."""
    lines = []
    for protocol_class, (title, meaning) in CLASSES.items():
        if methods := of_class(published, protocol_class):
            lines.append(
                [title, meaning.rstrip("."), str(len(methods)), _range((methods[-1].accuracy, methods[0].accuracy), 2)]
            )
    return table(["protocol", "what it means", "figures", "accuracy %"], lines, "llrr")


def standing(published: Published | None, board: Board) -> str:
    """Where the first row stands among the clean published figures, as part of a sentence; "" without any."""
    clean = of_class(published, "clean") if published else []
    if not clean:
        return ""
    _, high = tables.accuracy_interval(board.fair[0])
    reached = board.fair[0].mean("accuracy")
    assert reached is not None
    above, surely = (sum(method.accuracy > 100 * bound for method in clean) for bound in (reached, high))
    verb = "lies" if above == 1 else "lie"
    said = f"{above or 'none'} of the {len(clean)} clean published figures {verb} above that of the first row"
    far = f", {surely} of them above its 95 % interval" if above else ""
    return f"{said}{far}, the highest at {clean[0].accuracy:.2f} %"


def methods_table(methods: Sequence[Method]) -> str:
    """Methods in the order given; where it was scored is a column where that is not PrivateTest for all."""
    parts = any(method.part != TEST for method in methods)
    head = ["method", "year", "accuracy %", *(["part"] * parts), "models", "pretraining", "TTA", "others got %"]
    return table(head, [_method(method, parts) for method in methods], f"lrr{'l' * parts}rllr")


def _method(method: Method, with_part: bool) -> list[str]:
    spread = "" if method.plus_minus is None else f" ± {method.plus_minus:g}"
    return [
        _linked(method),
        str(method.year or NOTHING),
        f"{method.accuracy:.2f}{spread}",
        *([method.part] * with_part),
        str(method.models or NOTHING),
        method.pretraining or NOTHING,
        method.tta or NOTHING,
        _range(method.reproduced),
    ]


def _linked(method: Method) -> str:
    """The name, leading to the first of its sources that has an address."""
    found = next(iter(links(method.source)), None)
    return method.name if found is None else f"[{method.name}]({found[1]})"


def _sources(methods: Sequence[Method]) -> str:
    """A list of sources and notes; methods that share both share a line."""
    named: dict[str, list[str]] = {}
    for method in methods:
        said = " ".join([f"{source(method.source)}.", *_notes(method)]).removeprefix(f"{NOTHING}. ")
        named.setdefault(said, []).append(method.name)
    return "\n".join(f"- **{'; '.join(names)}**: {escape(said)}" for said, names in named.items())


def _notes(method: Method) -> list[str]:
    size = [f"{number(method.parameters_millions, 1)} M parameters."] if method.parameters_millions else []
    validation = [f"PublicTest {method.public_test:.2f}."] if method.public_test else []
    return [*size, *validation, *([method.note] if method.note else [])]


def _range(pair: tuple[float, float] | None, decimals: int | None = None) -> str:
    if pair is None:
        return NOTHING
    low, high = (f"{value:g}" if decimals is None else f"{value:.{decimals}f}" for value in pair)
    return low if low == high else f"{low} to {high}"


def source(given: Source | None) -> str:
    """Links to arXiv, GitHub and the DOI, then words and issue numbers."""
    if given is None:
        return NOTHING
    said = [f"[{words}]({address})" for words, address in links(given)] + [given.text or "", _issues(given)]
    return ", ".join(part for part in said if part)


def links(given: Source | None) -> list[tuple[str, str]]:
    """Words and addresses of arXiv, GitHub and the DOI, as far as they are given."""
    if given is None:
        return []
    found = (
        (given.arxiv, f"arXiv {given.arxiv}", f"https://arxiv.org/abs/{given.arxiv}"),
        (given.github, f"{given.github}", f"https://github.com/{given.github}"),
        (given.doi, "DOI", f"https://doi.org/{given.doi}"),
    )
    return [(words, address) for key, words, address in found if key]


def _issues(given: Source) -> str:
    if not given.issues:
        return ""
    word = "issue" if len(given.issues) == 1 else "issues"
    if given.github is None:
        return f"its {word} {', '.join(str(issue) for issue in given.issues)}"
    base = f"https://github.com/{given.github}/issues"
    return f"{word} " + ", ".join(f"[{issue}]({base}/{issue})" for issue in given.issues)


def recalls(confusions: Sequence[Confusion]) -> str:
    """Recall of each class: the diagonal of each published matrix as percent of its row."""
    head = ["method", "part", *EMOTIONS, "note"]
    rows = [[c.name, c.part, *(recall(c, share) for share in c.recall), c.note or NOTHING] for c in confusions]
    return table(head, rows, "ll" + "r" * len(EMOTIONS) + "l")


def recall(confusion: Confusion, share: float) -> str:
    """A published recall in percent, with the decimals that it has."""
    return f"{100 * share:.0f}" if confusion.unit == "shares" else percent(share)


def labels(confusions: Sequence[Confusion]) -> list[str]:
    """Names for heads of columns: without what stands in brackets at their end, unless two would be alike then."""
    short = [re.sub(r" \([^()]*\)$", "", c.name) for c in confusions]
    return [name if short.count(name) == 1 else c.name for name, c in zip(short, confusions, strict=True)]


def full_names(confusions: Sequence[Confusion]) -> str:
    """A sentence with the names that ``labels`` shortened, with a space before it; "" where it shortened none."""
    shortened = [c.name for name, c in zip(labels(confusions), confusions, strict=True) if name != c.name]
    return f" In full: {listing(shortened)}." if shortened else ""


def protocol(published: Published, matrix: Confusion) -> str:
    """How the published figure of a matrix was made, as its method says."""
    found = next(method for method in published.methods if method.name == matrix.name)
    return f"{found.protocol_class} protocol" if found.protocol_class else "no trained system"
