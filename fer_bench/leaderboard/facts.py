"""What the rows were made on: the facts that bear on the figures, then, folded, where the data came from."""

import numpy as np

from fer_bench.data import PARTS
from fer_bench.data.faces import OFFICIAL_LABELS
from fer_bench.files import sha256_bytes
from fer_bench.leaderboard import tables
from fer_bench.leaderboard.markdown import count, details, listing, table
from fer_bench.leaderboard.rows import TEST, Board


def section(board: Board) -> str:
    """Short facts, open; digests and form, folded; a warning where rows were made on other data."""
    facts = board.data
    if facts is None:
        return ""
    canonical = "yes, every file has the official md5 sum" if facts["canonical"] else f"no{_labels(board)}"
    short = [
        ["images", ", ".join(f"{part} {facts['counts'].get(part, 0):,}" for part in PARTS)],
        *_noise(board),
        [f"{TEST} opened", _looks(board)],
        *_audited(board),
    ]
    origin = [
        ["read from", facts["source"]],
        ["canonical", canonical if facts["name"] == "fer2013" else "drawn, seeded"],
        ["digest of images, labels and parts", f"`{facts['digest']}`"],
        ["digest of the split", f"`{facts['split_digest']}`"],
        ["bad rows skipped", str(facts["skipped"])],
    ]
    parts = [table(["fact", "value"], short), details("Origin and digests", table(["fact", "value"], origin))]
    if flagged := [f"{row.name} (`{row.flag[:12]}`)" for row in board.rows if row.flag]:
        parts.append(f"Other data than the board's: {listing(flagged)}; these rows are not ranked.")
    return "\n\n".join(parts)


def _labels(board: Board) -> str:
    """What data other than the official files share with them all the same."""
    digest = sha256_bytes(board.fair[0].labels.astype(np.uint8).tobytes()) if board.fair else None
    same = f"; the labels of {TEST}, in their order, are FER2013's by their SHA-256"
    return f", not the official files by their md5 sums{same if digest == OFFICIAL_LABELS[TEST] else ''}"


def _looks(board: Board) -> str:
    looks = {(look["run_id"], look["time"]) for r in board.records for look in r["looks"] if look["part"] == TEST}
    trained = {record["run_id"] for record in board.records if record["kind"] in ("member", "fold")}
    others = any(row.is_ensemble or row.is_external for row in board.rows)
    rest = "; the other rows are scored from stored probabilities" if others else ""
    return f"{count(len(looks), 'time')} for {count(len(trained), 'trained run')}{rest}"


def _audited(board: Board) -> list[list[str]]:
    """What the audit counted in PrivateTest."""
    if board.audit is None:
        return []
    rows, total = board.audit.private_test, board.audit.test_rows
    other = f"{len(rows.other_label_in_training)} with another label there"
    found = [
        [f"{TEST} images that are in Training too", f"{_of(len(rows.exact_twin_in_training), total)}, {other}"],
        [f"{TEST} images with an exact or near twin in Training", _of(len(rows.twin_in_training), total)],
        [f"constant images in {TEST}", str(len(rows.constant))],
    ]
    if rows.ferplus_agrees is not None:
        found.append([f"{TEST} labels that the FER+ majority has too", _of(len(rows.ferplus_agrees), total)])
    return found


def _of(number: int, total: int) -> str:
    return f"{number:,} ({100 * number / total:.1f} %)"


def _noise(board: Board) -> list[list[str]]:
    if not board.fair:
        return []
    first = board.fair[0]
    low, high = tables.accuracy_interval(first)
    return [
        ["one image", f"{100 / len(first.labels):.4f} points"],
        ["95 % interval of the first row", f"± {50 * (high - low):.2f} points"],
    ]
