"""Which changes of a board a pull request may make: rows are added, and nothing that stands is taken away or altered.

A row that stands may change in four ways, since none of them takes anything back: a failed run is done again, an
ensemble is built anew because its members grew in number, a record stores more view sets beside the ones that it had
(and an ensemble of it follows), and the page and its figures follow from the records. Everything else is a problem,
and a maintainer's to decide.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from fer_bench import audit, records
from fer_bench.leaderboard import published
from fer_bench.leaderboard.gitdiff import Diff
from fer_bench.records import stem_of
from fer_bench.records.schema import broken

KIB = 1024
LIMITS = {
    "results/*.json": 256 * KIB,
    "predictions/*.npz": 4096 * KIB,
    "figures/*.svg": 1024 * KIB,
    audit.FILE: 256 * KIB,
    published.FILE: 256 * KIB,
    "*.md": 256 * KIB,
    "*.sh": 256 * KIB,
    "speed/*.py": 256 * KIB,
    "speed/results/*.json": 256 * KIB,
}
"""What a board's folder may hold, and how many bytes a file of it may have; ``*`` is no slash."""
MOST = 32 * 1024 * KIB
"""Bytes that one pull request may add or change."""
MOST_LETTERS = 100  # of a difference between two records
MORE_VIEWS = "stores more views"

Record = dict[str, Any]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Judged:
    """What a pull request does to a board."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]  # what a reviewer should look at
    touched: dict[str, str]  # file stem of each record that was added or changed -> what happened to it


def judge(board: Path, diff: Diff) -> Judged:
    """Judge every changed file of a board; the records themselves are the business of ``proof``."""
    problems = [*_file_problems(board, diff), *_ignored(diff), *_other_removals(diff)]
    touched: dict[str, str] = {}
    for stem in sorted(_stems(diff), key=lambda stem: (_is_ensemble(board, stem), stem)):  # members first
        widened = {known for known, what in touched.items() if what.startswith(MORE_VIEWS)}
        wrong, what = _judge_record(board, diff, stem, widened)
        if wrong:
            problems.append(f"{stem}: {what}")
        else:
            touched[stem] = what
    problems += _earlier_seeds(diff, touched)
    return Judged(tuple(problems), tuple(_other_changes(board, diff)), touched)


# ---- files


def _file_problems(board: Path, diff: Diff) -> Iterator[str]:
    """Yield the added and changed files that are none, have no place on a board, or are too big."""
    total = 0
    for path in sorted(path for path, status in diff.changes.items() if status != "removed"):
        file = board / path
        limit = next((size for pattern, size in LIMITS.items() if _fits(path, pattern)), None)
        if file.is_symlink() or not file.is_file():
            yield f"{said(path)}: is no plain file; a board takes no links and no other repositories"
        elif limit is None:
            yield f"{said(path)}: has no place on a board, which takes {', '.join(LIMITS)}; leave it out"
        elif (size := file.stat().st_size) > limit:
            yield f"{said(path)}: {size:,} bytes, at most {limit:,} are taken"
        else:
            total += size
    if total > MOST:
        yield f"the files are {total:,} bytes in all, at most {MOST:,} are taken; part the rows among pull requests"


def _fits(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)


def _ignored(diff: Diff) -> Iterator[str]:
    for path in diff.ignored:
        if any(_fits(path, pattern) for pattern in LIMITS):
            yield f"{said(path)}: git ignores it, so the pull request will lack it; `git add --force` takes it in"


def _other_removals(diff: Diff) -> Iterator[str]:
    """Yield removed files that are neither of a record nor drawn."""
    for path, status in diff.changes.items():
        if status == "removed" and _stem(path) is None and not _fits(path, "figures/*"):
            yield f"{said(path)}: removed; bring it back"


def _other_changes(board: Path, diff: Diff) -> Iterator[str]:
    """Yield in words what changed besides records and figures."""
    for path, status in sorted(diff.changes.items()):
        if status == "removed" or _stem(path) or _fits(path, "figures/*"):
            continue
        if path == published.FILE:
            yield f"{path}: {_published_changes(board, diff)}"
        elif path == audit.FILE:
            yield f"{path}: {status}; `fer-bench data audit` on the data writes the same file"
        elif any(_fits(path, pattern) for pattern in LIMITS):
            yield f"{said(path)}: {status}"


def _published_changes(board: Path, diff: Diff) -> str:
    """Say which published figures came, went or changed."""
    before, after = _methods(diff.before(published.FILE)), _methods(_bytes(board / published.FILE))
    if before is None or after is None:
        return "changed"
    changed = [name for name in before.keys() & after.keys() if before[name] != after[name]]
    groups = {"added": after.keys() - before.keys(), "changed": changed, "removed": before.keys() - after.keys()}
    parts = [f"{what} {', '.join(sorted(names))}" for what, names in groups.items() if names]
    return "; ".join(parts) or "changed, its figures are the same"


def _methods(text: bytes | None) -> dict[str, Any] | None:
    """Entries of a published file by name; None where it cannot be read, which the check tells."""
    import yaml

    try:
        return {str(entry["name"]): entry for entry in yaml.safe_load(text or b"{}").get("methods", ())}
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError):
        return None


def said(path: str) -> str:
    """Return a path as one printable word, whatever is in it."""
    return path.encode("unicode_escape").decode() if not path.isprintable() else path


# ---- records


def _stem(path: str) -> str | None:
    """Return the file stem of a record, for one of its two files."""
    folder, _, name = path.partition("/")
    suffix = {"results": ".json", "predictions": ".npz"}.get(folder, "")
    return name.removesuffix(suffix) if suffix and name.endswith(suffix) and "/" not in name else None


def _stems(diff: Diff) -> set[str]:
    return {stem for path in diff.changes if (stem := _stem(path)) is not None}


def _judge_record(board: Path, diff: Diff, stem: str, widened: set[str]) -> tuple[bool, str]:
    """Whether a change of a record is a problem, and what it is, in words.

    ``widened`` are the file stems of the records that were found to store more views.
    """
    old = _parsed(diff.before(f"results/{stem}.json"))
    text = _bytes(board / "results" / f"{stem}.json")
    if text is None:
        return True, "removed; rows stay on the board, failures among them" if old else "has no record, only an .npz"
    new = _parsed(text)
    if new is None or broken(new):
        return True, "its record cannot be read"
    if old is None:
        return False, "new"
    if old["kind"] == "failure":
        return False, f"failed before ({old['failure']['reason']}), now {'again' if _failed(new) else 'finished'}"
    what = _grown(old, new, widened) or _follows(old, new, widened) or _widened(board, diff, stem, old, new)
    if what:
        return False, what
    return True, f"changed ({_differences(old, new)}); rows stay as they are: bring it back, or choose another name"


def _differences(old: Record, new: Record) -> str:
    """The first three key paths that differ, with their values where these are short."""
    changes = records.differing_keys(old, new)[:3]
    short = [change if len(change) <= MOST_LETTERS else change.split(": ")[0] for change in changes]
    return "; ".join(short) or "written in another form, or its probabilities are others"


def _parsed(text: bytes | None) -> Record | None:
    """Return a record, or None where there is none that can be read, which the check tells."""
    try:
        found = json.loads(text or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "kind" in found else None


def _is_ensemble(board: Path, stem: str) -> bool:
    found = _parsed(_bytes(board / "results" / f"{stem}.json"))
    return found is not None and found["kind"] == "ensemble"


def _failed(record: Record) -> bool:
    return record["kind"] == "failure"


def _grown(old: Record, new: Record, widened: set[str]) -> str | None:
    """Say that an ensemble was built anew because it has more members, or None where that is not what happened."""
    if not _same_recipe(old, new) or len(new["members"]) == len(old["members"]) or _lost_members(old, new, widened):
        return None
    had = old["figures"]["PrivateTest"][old["headline"]]["accuracy"]
    return f"built anew: {len(new['members'])} members where it had {len(old['members'])} ({100 * had:.2f} %)"


def _same_recipe(old: Record, new: Record) -> bool:
    """Whether both are ensembles of one method, with its parameters and headline, on the same data."""
    if not old["kind"] == new["kind"] == "ensemble":
        return False
    return _setting(old) == _setting(new) and old["headline"] == new["headline"]


def _setting(record: Record) -> Record:
    """Identity of a record without its members and views, in the settings of a trained run too."""
    apart = ("members", "views")
    identity = {key: value for key, value in record["identity"].items() if key not in apart}
    if isinstance(settings := identity.get("member"), dict):
        identity["member"] = {key: value for key, value in settings.items() if key not in apart}
    return identity


def _lost_members(old: Record, new: Record, widened: set[str]) -> bool:
    """Whether an ensemble has no longer what it had; a run whose record stores more views has another run id."""
    after = {stem_of(source): source["run_id"] for source in new["members"]}
    return any(
        after.get(stem_of(source)) != source["run_id"] and not (stem_of(source) in after and stem_of(source) in widened)
        for source in old["members"]
    )


def _follows(old: Record, new: Record, widened: set[str]) -> str | None:
    """Say that an ensemble was built anew because runs in it store more view sets, or None.

    What is fitted sees its members in the order of their run ids, which more view sets change, so its probabilities may
    be others. That they are the recipe's own for the members as stored is what ``proof`` finds.
    """
    if not _same_recipe(old, new) or len(old["members"]) != len(new["members"]) or old["members"] == new["members"]:
        return None
    if _lost_members(old, new, widened) or not set(old["views"]) <= set(new["views"]):
        return None
    had = old["figures"]["PrivateTest"][old["headline"]]["accuracy"]
    return f"follows its members, which store more views (it had {100 * had:.2f} %)"


def _widened(board: Path, diff: Diff, stem: str, old: Record, new: Record) -> str | None:
    """Say that a record stores more view sets beside all that it had, or None.

    The probabilities that it had are the same bits, wherever the further sets were scored: ``run`` leaves them alone.
    """
    kept = ("kind", "name", "seed", "fold", "data", "model", "headline", "history", "method", "weights", "chosen")
    more = [view for view in new.get("views", ()) if view not in old.get("views", ())]
    if old["kind"] not in (*records.TRAINED, "ensemble") or not more:
        return None
    if any(old.get(key) != new.get(key) for key in (*kept, "members")) or _setting(old) != _setting(new):
        return None
    if not (old["passes"].items() <= new["passes"].items() and all(look in new["looks"] for look in old["looks"])):
        return None
    before = _arrays(diff.before(f"predictions/{stem}.npz"))
    after = _arrays(_bytes(board / "predictions" / f"{stem}.npz"))
    if not before or any(key not in after or not np.array_equal(before[key], after[key]) for key in before):
        return None
    return f"{MORE_VIEWS}: {', '.join(more)}"


def _arrays(data: bytes | None) -> Arrays:
    """Return the arrays of an .npz; none where it is damaged, which the check tells."""
    try:
        with np.load(io.BytesIO(data or b""), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception:  # damaged bytes fail in many ways: zip, header, shape, memory
        return {}


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _earlier_seeds(diff: Diff, touched: dict[str, str]) -> Iterator[str]:
    """Yield new seeds that would take the place of the lowest one, which is declared to stand for its row."""
    known = [_seeded(name.removesuffix(".json")) for name in diff.listed("results")]
    for name, seed in (_seeded(stem) for stem, what in touched.items() if what == "new"):
        declared = min((s for n, s in known if n == name and s is not None), default=None)
        if seed is not None and declared is not None and seed < declared:
            yield f"{name}.s{seed}: seed {declared} is declared to stand for this row in pairs; add higher seeds only"


def _seeded(stem: str) -> tuple[str, int | None]:
    """Part a file stem into name and seed."""
    name, dot, digits = stem.rpartition(".s")
    return (name, int(digits)) if dot and digits.isdecimal() else (stem, None)
