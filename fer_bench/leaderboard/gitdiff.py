"""What the working tree changes in a folder, against the merge base with another branch, as git tells it."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fer_bench.errors import UserError

STATUS = {"A": "added", "D": "removed"}  # whatever else git names is a change


@dataclass(frozen=True)
class Diff:
    """A folder of a checkout against a commit; paths are relative to the folder, with slashes."""

    root: Path  # of the checkout
    prefix: str  # of the folder in it, "" or with a slash at its end
    ref: str
    base: str  # the merge base, 40 hex digits
    changes: dict[str, str]  # path -> added, changed or removed; the working tree counts, committed or not
    uncommitted: int  # of these, how many the last commit does not have as they are
    ignored: tuple[str, ...]  # files in the folder that git leaves out
    outside: tuple[str, ...]  # changed paths of the checkout that are not in the folder

    def before(self, path: str) -> bytes | None:
        """Return a file as the merge base has it, None where it has none."""
        try:
            return _git(self.root, "cat-file", "blob", f"{self.base}:{self.prefix}{path}")
        except _GitError:
            return None

    def listed(self, folder: str) -> list[str]:
        """Names of the files that the merge base has in a folder of this one."""
        words = ("ls-tree", "--name-only", "-z", self.base, f"{self.prefix}{folder}/")
        return [path.rsplit("/", 1)[-1] for path in _paths(_git(self.root, *words))]


class _GitError(Exception):
    """Git ended with an error; the text is the first line that it gave."""


def against(folder: Path, ref: str) -> Diff:
    """Compare a folder of the working tree with the merge base of HEAD and ``ref``; files git ignores do not count.

    Raises:
        UserError: no git, no checkout, an unknown ``ref``, or a clone too shallow to hold the merge base.
    """
    if folder.is_symlink():
        raise UserError(f"--base {ref}: {folder} is a link; name the folder itself")
    root = _root(folder, ref)
    base = _merge_base(root, ref)
    inside = folder.resolve().relative_to(root.resolve()).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    everything = _changes(root, base)
    changes = {path.removeprefix(prefix): status for path, status in everything.items() if path.startswith(prefix)}
    later = _changes(root, "HEAD")
    ignored = _paths(_git(root, "ls-files", "--others", "--ignored", "--exclude-standard", "-z", "--", inside))
    return Diff(
        root,
        prefix,
        ref,
        base,
        changes,
        uncommitted=sum(path.startswith(prefix) for path in later),
        ignored=tuple(path.removeprefix(prefix) for path in ignored),
        outside=tuple(path for path in everything if not path.startswith(prefix)),
    )


def _git(folder: Path, *words: str) -> bytes:
    """Return what a git command prints; it takes no lock on the index, and paths are no patterns."""
    command = ["git", "-C", str(folder), "--literal-pathspecs", *words]
    try:
        done = subprocess.run(command, capture_output=True, env=os.environ | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"})
    except FileNotFoundError:
        raise UserError("--base: git is not installed, and it knows what a branch changes") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _GitError(said[0] if said else f"git {words[0]} ended with {done.returncode}")
    return done.stdout


def _root(folder: Path, ref: str) -> Path:
    try:
        return Path(os.fsdecode(_git(folder, "rev-parse", "--show-toplevel").rstrip(b"\n")))
    except _GitError as error:
        raise UserError(f"--base {ref}: {folder} lies in no git checkout ({error})") from None


def _merge_base(root: Path, ref: str) -> str:
    shallow = _git(root, "rev-parse", "--is-shallow-repository").strip() == b"true"
    hint = "; this clone is shallow: fetch its whole history (`fetch-depth: 0` of actions/checkout)" if shallow else ""
    for name in ("HEAD", ref):
        try:
            _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except _GitError:
            what = f"no commit is known as {name!r} here"
            raise UserError(f"--base {ref}: {what}{hint or '; fetch it, or name a branch or commit'}") from None
    try:
        return _git(root, "merge-base", "--end-of-options", "HEAD", ref).decode().strip()
    except _GitError:
        raise UserError(f"--base {ref}: HEAD and {ref} have no commit in common{hint}") from None


def _changes(root: Path, commit: str) -> dict[str, str]:
    """Path -> status of what the working tree has otherwise than a commit; a rename is a removal and an addition."""
    words = _paths(_git(root, "diff", "--name-status", "--no-renames", "--no-ext-diff", "-z", commit, "--"))
    tracked = {path: STATUS.get(letter, "changed") for letter, path in zip(words[::2], words[1::2], strict=True)}
    new = _paths(_git(root, "ls-files", "--others", "--exclude-standard", "-z"))
    return dict.fromkeys(new, "added") | tracked


def _paths(listing: bytes) -> list[str]:
    """Split what git prints with ``-z``."""
    return [os.fsdecode(name) for name in listing.split(b"\0") if name]
