"""What `fer-bench run --dry-run` prints."""

import re
from typing import Any

from fer_bench.cli.printing import empty_table, show, title_of


def print_plan(rows: list[dict[str, Any]]) -> None:
    """The runs and votes of a suite, what cannot run and why, and the time of the rest."""
    from fer_bench.suite.progress import duration

    runs = [row for row in rows if row["kind"] != "ensemble"]
    votes = [row for row in rows if row["kind"] == "ensemble"]
    missing = sorted({row["unavailable"] for row in runs if row["unavailable"] and not row["cannot_run"]})
    failing = dict.fromkeys(f"{row['name']}: cannot run: {row['cannot_run']}" for row in runs if row["cannot_run"])
    total = sum(row.get("seconds", 0) for row in runs)
    show(_table_of_runs(runs), *([_table_of_votes(votes)] if votes else []), *failing, *missing)
    show(f"estimated time of what can start: {duration(total)}")
    later = [title_of(row) for row in runs if not row.get("fits", True)]
    if later:
        show(f"one by one, the budget leaves for a later call: {', '.join(later)}")


def _table_of_runs(rows: list[dict[str, Any]]) -> Any:
    from fer_bench.suite.progress import duration

    table = empty_table(
        {"run": "l", "backbone": "l", "px": "r", "parameters": "r", "state": "l", "time": "r", "memory": "r"}
    )
    for row in rows:
        known = "seconds" in row
        table.add_row(
            title_of(row),
            row["backbone"],
            str(row["image_size"]),
            f"{row['parameters'] / 1e6:.2f} M" if known else "-",
            _state_of(row),
            duration(row["seconds"]) if known else "-",
            f"{row['bytes'] / 2**30:.2f} GiB" if known else "-",
        )
    return table


def _table_of_votes(rows: list[dict[str, Any]]) -> Any:
    table = empty_table({"ensemble": "l", "method": "l", "runs": "r", "what the run does": "l"})
    table.columns[-1].no_wrap = False
    for row in rows:
        table.add_row(row["name"], row["method"], str(row["runs"]), row["does"])
    return table


def _state_of(row: dict[str, Any]) -> str:
    """The state of a planned run, that its weights are to be fetched, or in a few words why it cannot run."""
    if row["cannot_run"]:
        what = row["cannot_run"].split(": ", 1)[-1]  # without the key or the backbone, which the line below names
        return f"cannot run: {re.split('[,;(]', what)[0].strip()}"
    if row["unavailable"]:
        return "weights not local"
    return "score kept weights" if row["state"] == "score" else row["state"]
