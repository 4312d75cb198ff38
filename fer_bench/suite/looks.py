"""Looks at PrivateTest, noted on this machine before the part is opened: a kill between look and record loses none.

``runs/looks/TRAINING_ID.jsonl`` has one look a line: those with the weights of one training, whatever view sets were
scored. A record states the looks of the record that it replaces and those noted here, each once.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_bench.records import run_id, training_id

Look = dict[str, str]  # part, purpose, run_id and time, as splits.open_private_test gives it


def note(runs_dir: Path, identity: dict[str, Any], look: Look) -> None:
    """Append a look to those with a run's weights; it is on the disk when this returns."""
    path = _path(runs_dir, training_id(identity))
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(look).encode() + b"\n"
    with open(path, "ab+") as file:
        if _is_torn(file):
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def noted(runs_dir: Path, identity: dict[str, Any]) -> list[Look]:
    """Return the looks with a run's weights that were noted here, in the file of its run id too, as it was once."""
    return joined(*(_read(_path(runs_dir, name)) for name in {training_id(identity), run_id(identity)}))


def _read(path: Path) -> list[Look]:
    """Looks of one file; a line that a crash tore was no look yet."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def joined(*several: Sequence[Look]) -> list[Look]:
    """Unite lists of looks in the order of their times; what stands in two of them is one look, not two."""
    most: Counter[str] = Counter()
    for looks in several:
        most |= Counter(json.dumps(look, sort_keys=True) for look in looks)
    return sorted((json.loads(look) for look in most.elements()), key=lambda look: look["time"])


def _path(runs_dir: Path, name: str) -> Path:
    return runs_dir / "looks" / f"{name}.jsonl"


def _is_torn(file) -> bool:
    """Whether a file's last line has no end."""
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
