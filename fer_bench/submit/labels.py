"""What submitted rows are scored with: the labels of FER2013, or those that a record of the board keeps."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import data, records, splits
from fer_bench.errors import UserError
from fer_bench.records.identity import stem
from fer_bench.submit.probabilities import PARTS

Record = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Labels:
    """Where labels come from: FER2013 itself, whose PrivateTest is still closed, or a record that keeps them."""

    facts: dict[str, Any]  # the record's key "data"
    origin: str
    faces: data.Faces | None = None
    stored: dict[str, np.ndarray] | None = None

    def public(self) -> np.ndarray:
        """Labels (N,) of PublicTest."""
        if self.stored is not None:
            return self.stored["PublicTest/labels"].astype(np.int64)
        assert self.faces is not None
        return splits.part(self.faces, "PublicTest")[1]

    def private(self, run_id: str) -> tuple[np.ndarray, list[dict[str, str]]]:
        """Labels (N,) of PrivateTest, and the look where the data had to be opened for them."""
        if self.stored is not None:
            return self.stored["PrivateTest/labels"].astype(np.int64), []
        assert self.faces is not None
        purpose = "score of submitted probabilities"
        _, labels, look = splits.open_private_test(self.faces, purpose=purpose, run_id=run_id)
        return labels, [look]


def find_labels(board: Path, data_dir: Path | None) -> Labels:
    """Labels of whole FER2013 from ``data_dir``, else from a record of the board; a UserError where it has none."""
    if data_dir is not None:
        return labels_of(data.load(data_dir))
    whole = [record for record in records.load_all(board) if _is_whole(record)]
    if not whole:
        raise UserError(
            f"{board}: no record keeps the labels of whole FER2013; give the data with --data-dir or FER_BENCH_DATA_DIR"
        )
    digests = Counter(record["data"]["digest"] for record in whole)
    own = min(digests, key=lambda digest: (-digests[digest], digest))  # the board's data, as its page picks them
    record = next(record for record in whole if record["data"]["digest"] == own)
    origin = f"record {stem(record['name'], record['seed'])}"
    return Labels(record["data"], origin, stored=records.arrays(board, record))


def labels_of(faces: data.Faces) -> Labels:
    """Labels that ``faces`` hold, which must be whole FER2013: rows of a part of it cannot be in official order."""
    counts = splits.counts(faces)
    if faces.name != "fer2013" or counts != records.WHOLE:
        raise UserError(f"{faces.source}: submitted rows are scored on whole FER2013 {records.WHOLE}; found {counts}")
    data.require_labels(faces)
    facts = {
        "name": faces.name,
        "digest": faces.digest,
        "split_digest": splits.digest(faces),
        "canonical": faces.canonical,
        "source": faces.source,
        "skipped": faces.skipped,
        "counts": counts,
    }
    return Labels(facts, faces.source, faces=faces)


def _is_whole(record: Record) -> bool:
    facts = record["data"]
    whole = facts["name"] == "fer2013" and facts["counts"] == records.WHOLE and not record.get("limited")
    return whole and record["kind"] != "failure" and set(record["figures"]) == set(PARTS)
