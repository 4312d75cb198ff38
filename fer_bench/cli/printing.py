"""Tables and lines on stdout; a pipe gets them whole."""

from typing import Any


def empty_table(columns: dict[str, str]) -> Any:
    """A table without rows; ``columns`` says of each whether it is set to the left, "l", or to the right, "r"."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in columns.items():
        table.add_column(name, justify="right" if side == "r" else "left", no_wrap=True)
    return table


def show(*things: Any) -> None:
    """Print lines and tables to stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)  # a table is as wide as it is, and never cut
    for thing in things:
        console.print(thing, markup=False, soft_wrap=True) if isinstance(thing, str) else console.print(thing)


def title_of(row: dict[str, Any]) -> str:
    """Name, seed and fold, as far as it has them."""
    seed = "" if row["seed"] is None else f" seed {row['seed']}"
    return f"{row['name']}{seed}" + (f" fold {row['fold']}" if row.get("fold") is not None else "")
