"""What a run leaves behind: one JSON and one .npz of probabilities, complete or absent.

Only this package knows file names. A board is a folder with ``results/NAME.sSEED.json`` (``NAME.json`` for an
ensemble or a submitted row) and ``predictions/`` with the same stems. The JSON carries the SHA-256 of its .npz and is
written last. The .npz holds float16 probabilities (N, 7), one array a part and view set (``PrivateTest/flip``), and
the labels (``PrivateTest/labels``) as uint8 (N,).

``identity`` says what a run is and is called, ``schema`` what a record may hold, ``store`` reads and writes it, and
``check`` proves it from its files.
"""

from fer_bench.records.check import verify
from fer_bench.records.identity import conflict, differing_keys, run_id
from fer_bench.records.schema import CLASSES, SCHEMA, WHOLE, as_stored, probabilities_sha256
from fer_bench.records.store import arrays, called, find, load, load_all, remove, save, stray_files

__all__ = [
    "CLASSES",
    "SCHEMA",
    "WHOLE",
    "arrays",
    "as_stored",
    "called",
    "conflict",
    "differing_keys",
    "find",
    "load",
    "load_all",
    "probabilities_sha256",
    "remove",
    "run_id",
    "save",
    "stray_files",
    "verify",
]
