"""What a run leaves behind: one JSON and one .npz of probabilities, complete or absent.

Only this package knows file names. A board is a folder with ``results/NAME.sSEED.json`` (``NAME.sSEED.fFOLD.json`` for
a run on a fold of Training, ``NAME.json`` for an ensemble or a submitted row) and ``predictions/`` with the same stems.
The JSON carries the SHA-256 of its .npz and is written last. The .npz holds float16 probabilities (N, 7), one array a
part and view set (``PrivateTest/flip``), and the labels (``PrivateTest/labels``) as uint8 (N,); a fold run also those
of the rows of Training that it held out, with their numbers (``Training/rows``) as int32 (n,).

``identity`` says what a run is and is called, ``schema`` what a record may hold, ``contents`` what its arrays may,
``store`` reads and writes both, ``check`` proves a record from its files, and ``kept`` names what stays in ``runs/``.
"""

from fer_bench.records.check import verify
from fer_bench.records.contents import CLASSES, as_stored, predicted, probabilities_sha256, rows_sha256
from fer_bench.records.identity import (
    changed_settings,
    conflict,
    differing_keys,
    run_id,
    same_training,
    settings,
    stem_of,
    training_id,
    units,
)
from fer_bench.records.kept import checkpoint_path, rename_older, weights_path
from fer_bench.records.schema import SCHEMA, SUBMITTED, TRAINED, WHOLE
from fer_bench.records.store import adopt, arrays, called, files, find, load, load_all, remove, save, stray_files

__all__ = [
    "CLASSES",
    "SCHEMA",
    "SUBMITTED",
    "TRAINED",
    "WHOLE",
    "adopt",
    "arrays",
    "as_stored",
    "called",
    "changed_settings",
    "checkpoint_path",
    "conflict",
    "differing_keys",
    "files",
    "find",
    "load",
    "load_all",
    "predicted",
    "probabilities_sha256",
    "remove",
    "rename_older",
    "rows_sha256",
    "run_id",
    "same_training",
    "save",
    "settings",
    "stem_of",
    "stray_files",
    "training_id",
    "units",
    "verify",
    "weights_path",
]
