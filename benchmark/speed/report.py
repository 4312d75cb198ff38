"""Recorded figures -> the section of README.md between its two marks, and the check that it is what they say."""

import json
from pathlib import Path
from typing import Any

from fer_bench.errors import UserError
from fer_bench.files import write_atomic

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- speed: begin, rendered by `make speed` -->", "<!-- speed: end -->"

TITLES = {
    "epochs": "Our epoch's speed as a share of bare steps on one resident batch",
    "loops": "Usual loop (DataLoader, torchvision transforms, all cores) / our epoch",
    "settings": "What each setting of the engine gains over the one before",
    "accuracy": "Validation accuracy with each of these settings",
    "jobs": "Images a second of N runs at once / one run",
    "views": "V views at test time / V plain passes",
    "parsing": "The notebook's way of reading / ours",
    "ensembles": "Twice the size / once the size (2 is linear)",
    "rendering": "Twice the records / once the records (2 is linear)",
    "reach": "Training time to a fixed validation accuracy",
    "forecasts": "What training takes / what `--dry-run` promises",
}

File = dict[str, Any]


def read(folder: Path = RESULTS) -> dict[str, File]:
    """Read the recorded figures: hardware -> part -> what ``measure.measured`` returned."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            held = json.loads(path.read_bytes())
            parts = held["parts"]
            is_quick = any(part["quick"] for part in parts.values())
            found[held["hardware"]] = parts
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserError(
                f"{path}: no file of speed figures; delete it, or measure again with `make speed`"
            ) from None
        if is_quick:
            raise UserError(f"{path}: has figures of --quick, which only shows that the code runs; measure without it")
    return found


def store(path: Path, hardware: str, parts: dict[str, File]) -> None:
    """Add parts to the file of a machine, in place of what it had of them."""
    held = json.loads(path.read_bytes())["parts"] if path.is_file() else {}
    text = json.dumps({"hardware": hardware, "parts": held | parts}, indent=1, sort_keys=True)
    write_atomic(path, (text + "\n").encode())


def section(files: dict[str, File]) -> str:
    """Return the markdown of the section: one table, a column for each machine, and what the figures were made with."""
    if not files:
        return "No figures are recorded; `make speed` measures this machine."
    head = ["| ratio | aim | " + " | ".join(files) + " |", "| --- | --- |" + " --: |" * len(files)]
    lines = [line for part, title in TITLES.items() for line in _part(part, title, files)]
    notes = [
        note
        for name, parts in files.items()
        for note in (_made_with(name, parts), *_best_jobs(parts), *_figures_of(parts))
    ]
    if all(part.get("device") != "cuda" for parts in files.values() for part in parts.values()):
        notes.append("- CUDA: not measured, no such machine has been at hand; `benchmark/cuda.sh speed` does it.")
    return "\n".join([*head, *lines, "", *notes])


def _part(part: str, title: str, files: dict[str, File]) -> list[str]:
    rows: dict[str, str | None] = {}
    for parts in files.values():
        rows |= {row["name"]: row["aim"] for row in parts.get(part, {"rows": []})["rows"]}
    lines = [f"| **{title}** | |" + (" |" if rows else " not measured |") * len(files)]
    for name, aim in rows.items():
        cells = [_cell(name, parts.get(part, {"rows": []})["rows"]) for parts in files.values()]
        lines.append(f"| {name} | {aim or '–'} | " + " | ".join(cells) + " |")
    return lines


def _cell(name: str, rows: list[dict[str, Any]]) -> str:
    row = next((row for row in rows if row["name"] == name), None)
    if row is None:
        return "not measured"
    text = in_words(row)
    return text if "figure" in row or meets(row["ratio"]["median"], row["aim"]) else f"**{text}**"


def in_words(row: dict[str, Any]) -> str:
    """A row's ratio, its figure, or why it has none; of several values the middle and the range."""
    if "ratio" in row:
        return _spread(row["ratio"], "median", "")
    figure = row["figure"]
    if figure["why"]:
        return str(figure["why"])
    middle = "mean" if figure["unit"] == "%" else "median"
    if len(row["values"]) == 1:
        return f"{_short(figure[middle])} {figure['unit']}"
    return _spread(figure, middle, f" {figure['unit']}")


def _spread(values: dict[str, float], middle: str, unit: str) -> str:
    return f"{_short(values[middle])}{unit} ({_short(values['low'])} – {_short(values['high'])})"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def meets(value: float, aim: str | None) -> bool:
    """Whether a ratio meets its aim, such as ``>= 0.90`` or ``0.8 to 1.2``."""
    if not aim:
        return True
    if " to " in aim:
        low, high = map(float, aim.split(" to "))
        return low <= value <= high
    sign, bound = aim.split()
    return {">=": value >= float(bound), ">": value > float(bound), "<=": value <= float(bound)}[sign]


def _made_with(name: str, parts: File) -> str:
    one = max(parts.values(), key=lambda part: part["measured"])
    loads = [load for part in parts.values() for load in (part["load_before"][0], part["load_after"][0])]
    versions = ", ".join(
        f"{library} {one['versions'][library]}" for library in ("torch", "torchvision", "timm", "python")
    )
    return (
        f"- {name}: {one['threads']} threads, {versions}, commit {(one['git_commit'] or 'unknown')[:7]}, "
        f"{one['measured'][:10]}; load average {min(loads)} to {max(loads)} meanwhile."
    )


def _best_jobs(parts: File) -> list[str]:
    """Which number of runs at once trains the most images a second, for each network."""
    best: dict[str, tuple[float, str]] = {}
    for row in parts.get("jobs", {"rows": []})["rows"]:
        network, _, count = row["name"].partition(": --jobs ")
        best[network] = max(best.get(network, (1.0, "1")), (row["ratio"]["median"], count))
    found = "; ".join(f"{count} for {network}" for network, (_, count) in best.items())
    return [f"  - The best `--jobs`: {found}."] if found else []


def _figures_of(parts: File) -> list[str]:
    """What the figures that are no ratios are of, each text once."""
    titles = {part: title for part, title in TITLES.items() if part in parts}
    of = {(t, row["figure"]["of"]): None for p, t in titles.items() for row in parts[p]["rows"] if "figure" in row}
    return [f"  - {title}: {text}." for title, text in of]


def rendered(text: str, files: dict[str, File]) -> str:
    """Return a README's text with the section between its marks anew."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"README.md: must hold each of the marks {BEGIN!r} and {END!r} once, in this order")
    return text[: text.index(BEGIN) + len(BEGIN)] + "\n" + section(files) + "\n" + text[text.index(END) :]
