"""Reading: fer2013.csv as fer-bench parses and caches it, beside a loop of ``np.fromstring`` over the rows."""

import tempfile
from pathlib import Path

import numpy as np

from fer_bench import data
from fer_bench.data import PARTS
from measure import Row, Setting, in_turns

ROWS = (28709, 3589, 3589)
QUICK = (60, 20, 20)


def parsing(setting: Setting) -> list[Row]:
    """Measure the notebook's way against ours, without and with the decoded cache."""
    with tempfile.TemporaryDirectory(prefix="fer-bench-speed-") as name:
        folder = Path(name)
        path = data_file(setting, folder)
        data.load(path, cache=folder / "warm")
        colds = iter(range(10_000))
        found = in_turns(
            {
                "notebook": lambda: notebook(path),
                "parsed": lambda: data.load(path, cache=folder / f"cold{next(colds)}"),
                "cached": lambda: data.load(path, cache=folder / "warm").images.max(),
            },
            setting,
        )
    facts = {
        "rows": sum(QUICK if setting.is_quick else ROWS),
        "file": "random pixels" if path.parent == folder else path.name,
    }
    return [
        Row("fer2013.csv, parsed, checked and stored", found, "notebook", "parsed", ">= 5", facts),
        Row("fer2013.csv, read from the decoded cache", found, "notebook", "cached", ">= 100", facts),
    ]


def notebook(path: Path) -> np.ndarray:
    """Read the pixels (N, 48, 48) as the notebooks do."""
    import pandas as pd

    rows = pd.read_csv(path, skipinitialspace=True)["pixels"]
    return np.array([np.fromstring(row, dtype=np.uint8, sep=" ") for row in rows]).reshape(-1, 48, 48)


def data_file(setting: Setting, folder: Path) -> Path:
    """The real file where it is one CSV, or one of random pixels with as many rows."""
    found = data.loading.find(setting.data) if setting.data is not None else None
    if found is not None and found.form == "csv":
        return found.paths[0]
    rng, path = np.random.default_rng(0), folder / "fer2013.csv"
    with open(path, "w") as file:
        file.write("emotion,pixels,Usage\n")
        for part, rows in zip(PARTS, QUICK if setting.is_quick else ROWS, strict=True):
            for _ in range(rows):
                pixels = " ".join(map(str, rng.integers(0, 256, 2304).tolist()))
                file.write(f"{rng.integers(7)},{pixels},{part}\n")
    return path
