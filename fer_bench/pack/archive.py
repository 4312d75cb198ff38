"""The file: a zip of stored entries, the same bytes for the same records, with the SHA-256 of each in ``pack.json``.

Nothing is compressed, so that no entry can be larger than the file, and the bytes depend on no version of zlib; the
probabilities, nearly all of it, are compressed already.
"""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fer_bench.errors import UserError
from fer_bench.files import canonical_json, sha256_bytes, sha256_file, write_atomic

VERSION = 1
MANIFEST = "pack.json"
ENTRY = re.compile(
    r"results/[a-z0-9][a-z0-9._-]*\.json|predictions/[a-z0-9][a-z0-9._-]*\.npz|weights/[0-9a-f]{16}\.safetensors"
)
AGAIN = "make it again with `fer-bench pack` and copy it whole"


def write(file: Path, contents: Mapping[str, Path]) -> None:
    """Write a pack of files under their names in it; an old file of that name is replaced in one step."""
    held = {name: contents[name].read_bytes() for name in sorted(contents)}
    manifest = {"pack": VERSION, "files": {name: sha256_bytes(data) for name, data in held.items()}}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {MANIFEST: canonical_json(manifest), **held}.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # dated 1980
    write_atomic(file, buffer.getvalue())


def extract(file: Path, folder: Path) -> list[str]:
    """Check a pack and lay out its files below ``folder``, an empty one; their names.

    Raises:
        UserError: whatever is wrong with the file as a whole; nothing outside ``folder`` was touched.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; `fer-bench pack` makes one")
    try:
        with zipfile.ZipFile(file) as archive:
            return _extract(file, archive, folder)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{file}: no pack of fer-bench, or not all of one ({error}); {AGAIN}") from None


def _extract(file: Path, archive: zipfile.ZipFile, folder: Path) -> list[str]:
    entries = archive.infolist()
    if MANIFEST not in archive.namelist():
        raise zipfile.BadZipFile(f"no {MANIFEST} in it")
    if odd := next((e.filename for e in entries if e.filename != MANIFEST and not ENTRY.fullmatch(e.filename)), None):
        raise UserError(f"{file}: holds {odd[:80]!r}, and a pack holds only results, predictions and weights; {AGAIN}")
    if any(e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size for e in entries):
        raise UserError(f"{file}: has compressed entries, so it is not as `fer-bench pack` wrote it; {AGAIN}")
    sums = _sums(file, archive.read(MANIFEST))
    names = sorted(e.filename for e in entries if e.filename != MANIFEST)
    if names != sorted(sums):
        differing = sorted(set(names) ^ set(sums)) or sorted(names)
        raise UserError(f"{file}: holds other files than its {MANIFEST} lists, such as {differing[0]!r}; {AGAIN}")
    for name in names:
        path = folder / PurePosixPath(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archive.read(name))
        if sha256_file(path) != sums[name]:
            raise UserError(f"{file}: {name} is not the file that was packed, its SHA-256 differs; {AGAIN}")
    return names


def _sums(file: Path, data: bytes) -> dict[str, Any]:
    manifest = json.loads(data)
    version = manifest.get("pack") if isinstance(manifest, dict) else None
    if version != VERSION:
        raise UserError(f"{file}: a pack of version {version!r}, and this fer-bench reads {VERSION}; use the same one")
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise UserError(f"{file}: its {MANIFEST} lists no files; {AGAIN}")
    return files
