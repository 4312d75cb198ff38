"""Every form of FER2013 -> ``Faces``: strict row checks, one digest for the same data, a decoded cache."""

from fer_bench.data.faces import EMOTIONS, PARTS, SIDE, Faces, assemble, digest, require_labels
from fer_bench.data.loading import load
from fer_bench.data.report import check

__all__ = ["EMOTIONS", "PARTS", "SIDE", "Faces", "assemble", "check", "digest", "load", "require_labels"]
