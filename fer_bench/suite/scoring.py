"""A run's weights -> its probabilities on every part that it is scored on, in all its view sets."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fer_bench import records, splits
from fer_bench.data import Faces
from fer_bench.errors import UserError
from fer_bench.models import Network
from fer_bench.predict import by_view_set
from fer_bench.suite.folds import held_out_rows
from fer_bench.suite.plan import Run
from fer_bench.train import Engine
from fer_bench.views import passes

MOST_APART = 0.01
"""Mean difference of probabilities; another machine or precision moves them by less, other weights by far more."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Scored:
    """Labels and probabilities of each scored part as stored, looks at PrivateTest, and the seconds of predicting."""

    arrays: Arrays
    looks: tuple[dict[str, str], ...]
    seconds: float


def lacking(views: Sequence[str], stored: Mapping[str, np.ndarray]) -> list[str]:
    """The view sets that a record's arrays do not have; they have the same ones for every part."""
    return [view for view in views if f"PrivateTest/{view}" not in stored]


def chosen(views: Sequence[str], stored: Mapping[str, np.ndarray]) -> Arrays:
    """Labels, row numbers and some view sets out of a record's arrays."""
    return {key: values for key, values in stored.items() if key.split("/")[1] in ("labels", "rows", *views)}


def score(
    run: Run,
    network: Network,
    faces: Faces,
    engine: Engine,
    purpose: str,
    note: Callable[[dict[str, str]], None],
    stored: Mapping[str, np.ndarray],
) -> Scored:
    """Predict PublicTest and the rows that the run holds out, then open PrivateTest and predict that.

    ``stored`` are the arrays of a record of the same training, or none. What they have stays as it is, to the bit, and
    only the other view sets are predicted; the test part is opened only where the cheapest stored one comes out again.

    Raises:
        UserError: where these are not the weights that gave ``stored``.
    """
    start, names, proof = time.monotonic(), lacking(run.member.views, stored), _cheapest(stored)

    def predicted(part: str, images: np.ndarray, labels: np.ndarray, also: Sequence[str] = ()) -> Arrays:
        found = by_view_set(network, images, [*names, *also], device=engine.device, precision=engine.precision)
        probabilities = {f"{part}/{view}": records.as_stored(p) for view, p in found.items()}
        return probabilities | {f"{part}/labels": labels.astype(np.uint8)}

    arrays = predicted("PublicTest", *splits.part(faces, "PublicTest"), proof)
    _refuse_other_weights(run, arrays, stored)
    if run.fold:
        arrays |= predicted("Training", *held_out_rows(faces, run.fold)) | {"Training/rows": run.fold.held}
    images, labels, look = splits.open_private_test(faces, purpose=purpose, run_id=run.run_id, note=note)
    arrays |= predicted("PrivateTest", images, labels)
    arrays = chosen(run.member.views, {**arrays, **stored})
    return Scored(arrays, (look,), time.monotonic() - start)


def _cheapest(stored: Mapping[str, np.ndarray]) -> list[str]:
    there = [key.removeprefix("PublicTest/") for key in stored if key.startswith("PublicTest/")]
    return sorted((name for name in there if name != "labels"), key=passes)[:1]


def _refuse_other_weights(run: Run, found: Arrays, stored: Mapping[str, np.ndarray]) -> None:
    for key in sorted(found.keys() & stored.keys()):
        apart = np.abs(found[key].astype(np.float64) - stored[key]).mean()
        if apart > MOST_APART and not key.endswith("/labels"):
            raise UserError(
                f"{run.title}: the kept weights are not those of its record, {key} is {apart:.3f} off on average; "
                f"--member {run.member.name} --seed {run.seed} --force trains it again"
            )
