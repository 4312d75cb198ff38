"""Images that are the same picture: identical pixels, or a correlation near 1, mirrored or not."""

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_bench.files import cache_dir, write_atomic

THRESHOLD = 0.98
BLOCK = 2048  # rows of a block: a product of two blocks takes 16 MB, and the search two products at a time
SLACK = 1e-4  # float32 products err by about 1e-6; what comes this close is computed again in whole numbers
CHUNK = 1024  # candidates computed again at a time


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of rows whose images correlate at or above the threshold; ``first < second``, in ascending order."""

    first: np.ndarray  # (P,) int64
    second: np.ndarray  # (P,) int64
    correlation: np.ndarray  # (P,) float64, the larger of both ways round
    mirrored: np.ndarray  # (P,) bool, whether the larger one is with the mirrored image


def exact_groups(images: np.ndarray) -> np.ndarray:
    """Group ids (N,) int64 of images (N, S, S): one id for identical pixels; a mirrored copy is another image."""
    ids: dict[bytes, int] = {}
    return np.array([ids.setdefault(image.tobytes(), len(ids)) for image in images], dtype=np.int64)


def groups(images: np.ndarray, cache: Path | None = None) -> np.ndarray:
    """Group ids (N,) int64 of images (N, S, S), in the order of their first rows; twins of twins share one too.

    Identical pixels and near twins, mirrored or not. The search is kept by the digest of the images, below the cache
    folder unless ``cache`` names another: it takes 20 s of one core for the 28,709 rows of Training.
    """
    digest = hashlib.sha256(repr((THRESHOLD, images.shape)).encode() + np.ascontiguousarray(images).tobytes())
    path = (cache or cache_dir() / "twins") / f"{digest.hexdigest()}.npy"
    found = _kept(path, len(images))
    if found is None:
        found = _joined(images)
        file = io.BytesIO()
        np.save(file, found)
        with contextlib.suppress(OSError):  # a read-only or full disk keeps nothing and is no error
            write_atomic(path, file.getvalue() + hashlib.sha256(file.getvalue()).digest())
    return found


def _kept(path: Path, count: int) -> np.ndarray | None:
    """The groups of an earlier search; None if there are none, or if the file is not what was written."""
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data[:-32]).digest() == data[-32:]:
            found: np.ndarray = np.load(io.BytesIO(data[:-32]), allow_pickle=False)
            return found if len(found) == count else None
    return None


def _joined(images: np.ndarray) -> np.ndarray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs, same = near(images), _mirrored_groups(images)
    first = np.unique(same, return_index=True)[1][same]
    rows, columns = (np.concatenate(ends) for ends in ((pairs.first, first), (pairs.second, np.arange(len(images)))))
    edges = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(len(images), len(images)))
    parts = connected_components(edges, directed=False)[1]
    starts = np.unique(parts, return_index=True)[1]
    return np.argsort(np.argsort(starts))[parts].astype(np.int64)


def _mirrored_groups(images: np.ndarray) -> np.ndarray:
    """Group ids (N,) of identical pixels, a mirrored copy counted as identical; constant images have no near twins."""
    return exact_groups(np.array([min(image, image[:, ::-1], key=lambda i: i.tobytes()) for image in images]))


def constant(images: np.ndarray) -> np.ndarray:
    """Mask (N,) of the images (N, S, S) with one value in all pixels."""
    return images.min(axis=(1, 2)) == images.max(axis=(1, 2))


def near(
    images: np.ndarray,
    threshold: float = THRESHOLD,
    *,
    block: int = BLOCK,
    progress: Callable[[float], None] = lambda share: None,
) -> Pairs:
    """Every pair of images (N, S, S) uint8, S even, with a Pearson correlation of pixels >= ``threshold``.

    Each image is compared with each other and with its mirror image. A constant image has no correlation and so no
    near twin. ``progress`` is told the share of the work that is done.
    """
    halves = _halves(images, block)
    found = [np.empty((0, 2), dtype=np.int64)]
    for candidates, share in _candidates(*halves, threshold - SLACK, block):
        found.append(candidates)
        progress(share)
    return _measured(images, np.concatenate(found), threshold)


def _halves(images: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised images as the half that a mirror leaves alone and the half that it negates, (N, S * S / 2) float32.

    With images x and y split into even e and odd o, x . y = ex . ey + ox . oy and x . mirror(y) = ex . ey - ox . oy,
    so both correlations cost as much as one.
    """
    count, side, _ = images.shape
    even, odd = (np.empty((count, side * side // 2), dtype=np.float32) for _ in range(2))
    for start in range(0, count, block):
        rows = slice(start, start + block)
        left, right = _standardised(images[rows])
        even[rows], odd[rows] = left + right, left - right
    return even, odd


def _standardised(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left halves and mirrored right halves (B, S * S / 2) of images of mean 0, length 1 / sqrt(2); 0 if constant."""
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(2 * (centred**2).sum(axis=(1, 2), keepdims=True))
    scaled = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    middle = images.shape[2] // 2
    left, right = scaled[:, :, :middle], scaled[:, :, ::-1][:, :, :middle]
    return left.reshape(len(images), -1), right.reshape(len(images), -1)


def _candidates(even: np.ndarray, odd: np.ndarray, least: float, block: int) -> Iterator[tuple[np.ndarray, float]]:
    """Row pairs (P, 2) above ``least`` of each two blocks, and the share of blocks that are done."""
    starts = range(0, len(even), block)
    done, total = 0, len(starts) * (len(starts) + 1) // 2
    for a in starts:
        for b in starts[a // block :]:
            rows, columns = slice(a, a + block), slice(b, b + block)
            larger = odd[rows] @ odd[columns].T
            np.abs(larger, out=larger)
            larger += even[rows] @ even[columns].T  # e + |o|: the larger of both correlations
            pairs = np.argwhere(larger >= least) + np.array([a, b])
            done += 1
            yield pairs[pairs[:, 0] < pairs[:, 1]], done / total


def _measured(images: np.ndarray, candidates: np.ndarray, threshold: float) -> Pairs:
    """The candidates (P, 2) that hold when computed in whole numbers, which every machine rounds alike."""
    ordered = candidates[np.lexsort((candidates[:, 1], candidates[:, 0]))]
    chunks = [ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK)]
    both = np.concatenate([np.empty((2, 0)), *(_correlations(images, *chunk.T) for chunk in chunks)], axis=1)
    kept = both.max(axis=0) >= threshold
    plain, mirror = both[:, kept]
    first, second = ordered[kept].T
    return Pairs(first, second, np.maximum(plain, mirror), mirror > plain)


def _correlations(images: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlations (2, P) of pairs: as they are, and with the second image mirrored."""
    x, y = (images[rows].astype(np.int64) for rows in (first, second))
    size = x[0].size
    sums = x.sum(axis=(1, 2)) * y.sum(axis=(1, 2))
    products = np.array([(x * other).sum(axis=(1, 2)) for other in (y, y[:, :, ::-1])])
    spreads = [size * (image**2).sum(axis=(1, 2)) - image.sum(axis=(1, 2)) ** 2 for image in (x, y)]
    return (size * products - sums) / (np.sqrt(spreads[0]) * np.sqrt(spreads[1]))
