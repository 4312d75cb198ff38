"""Published figures as tables, one a class of protocol, and the recalls of published confusion matrices."""

from collections.abc import Sequence

from fer_bench.data import EMOTIONS
from fer_bench.leaderboard.markdown import NOTHING, details, number, percent, table
from fer_bench.leaderboard.published import Confusion, Method, Published, Source

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
    """The published tables in the order of ``CLASSES``, each by falling accuracy."""
    parts = [
        "Figures of other people, as published, each under the protocol that it was made with. Where no note "
        "says that probabilities are at hand, they **cannot be tested in pairs** with the rows above, and only *clean* "
        "figures are made as those are. *Others got* is the range that other people reached with the same code or "
        "weights."
    ]
    for protocol_class, (title, meaning) in CLASSES.items():
        methods = [method for method in published.methods if method.protocol_class == protocol_class]
        if methods and protocol_class == "clean":
            parts += [f"**{title}**: {meaning}", methods_table(methods)]
        elif methods:
            parts.append(details(f"<b>{title}</b>: {meaning}", methods_table(methods)))
    if published.confusions:
        title = "Recall of each class where a confusion matrix was published, percent"
        parts.append(details(title, recalls(published.confusions)))
    return "\n\n".join(parts)


def methods_table(methods: Sequence[Method]) -> str:
    """Methods of one class, by falling accuracy, then name."""
    head = ["method", "year", "accuracy %", "part", "models", "pretraining", "TTA", "others got %", "source", "note"]
    rows = [_method(method) for method in sorted(methods, key=lambda m: (-m.accuracy, m.name))]
    return table(head, rows, "lrrlrllrll")


def _method(method: Method) -> list[str]:
    spread = "" if method.plus_minus is None else f" ± {method.plus_minus:g}"
    return [
        method.name,
        str(method.year or NOTHING),
        f"{method.accuracy:.2f}{spread}",
        method.part,
        str(method.models or NOTHING),
        method.pretraining or NOTHING,
        method.tta or NOTHING,
        _range(method.reproduced),
        source(method.source),
        " ".join(_notes(method)) or NOTHING,
    ]


def _notes(method: Method) -> list[str]:
    size = [f"{number(method.parameters_millions, 1)} M parameters."] if method.parameters_millions else []
    validation = [f"PublicTest {method.public_test:.2f}."] if method.public_test else []
    return [*size, *validation, *([method.note] if method.note else [])]


def _range(pair: tuple[float, float] | None) -> str:
    if pair is None:
        return NOTHING
    return f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g} to {pair[1]:g}"


def source(given: Source | None) -> str:
    """Links to arXiv, GitHub and the DOI, then words and issue numbers."""
    if given is None:
        return NOTHING
    links = [
        f"[arXiv {given.arxiv}](https://arxiv.org/abs/{given.arxiv})" if given.arxiv else "",
        f"[{given.github}](https://github.com/{given.github})" if given.github else "",
        f"[DOI](https://doi.org/{given.doi})" if given.doi else "",
        given.text or "",
        _issues(given),
    ]
    return ", ".join(link for link in links if link)


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
    rows = [[c.name, c.part, *(_recall(c, share) for share in c.recall), c.note or NOTHING] for c in confusions]
    return table(head, rows, "ll" + "r" * len(EMOTIONS) + "l")


def _recall(confusion: Confusion, share: float) -> str:
    return f"{100 * share:.0f}" if confusion.unit == "shares" else percent(share)
