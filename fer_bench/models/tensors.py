"""Files of tensors: read, and compared with the network that they are for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from fer_bench.errors import UserError
from fer_bench.models.network import CLASSES

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys below which training scripts keep the tensors, as timm looks for them."""


def read(path: Path) -> dict[str, Tensor]:
    """Read a file of weights, whatever a training script wrapped them in.

    Raises:
        UserError: for a file that is none, is damaged, or holds more than tensors.
    """
    try:
        found = _loaded(path)
    except OSError as error:
        raise UserError(f"weights: {path} cannot be read ({error.strerror or in_words(error)})") from None
    except Exception as error:  # a file that is none of weights fails in any part of the readers
        raise UserError(f"weights: {path} {_what_is_wrong(path, error)}") from error
    held = next((found[key] for key in WRAPPERS if isinstance(found, dict) and isinstance(found.get(key), dict)), found)
    tensors = {key: value for key, value in held.items() if isinstance(value, Tensor)} if isinstance(held, dict) else {}
    if not tensors:
        raise UserError(f"weights: {path} holds no named tensors; save the network's state_dict() and give that")
    return tensors


def _loaded(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)


def _what_is_wrong(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        is_saved = file.read(2) in (b"PK", b"\x80\x02")  # as torch.save writes them, and wrote them before 1.6
    if is_saved and isinstance(error, UnpicklingError):
        return (
            "holds Python objects beside tensors, which are not loaded; save the network's state_dict() and give that"
        )
    return "is no weights file, or a damaged one; give a .pth or .safetensors file"


def misfit(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """Say which tensors of a network a file lacks, has in another shape or has besides; "" where it fits.

    The head, which is made anew, may have any shape.
    """
    missing = [key for key in own if key not in theirs]
    shared = [key for key in own if key in theirs and own[key].shape != theirs[key].shape]
    other = [key for key in shared if own[key].shape[:1] != (CLASSES,)]
    besides = [key for key in theirs if key not in own]
    found = [
        _counted(missing, f"of its {len(own)} tensors", "missing"),
        _counted(other, "" if missing else f"of its {len(own)} tensors", "of another shape"),
        _counted(besides, "", "unexpected"),
    ]
    return ", ".join(text for text in found if text)


def _counted(keys: Sequence[str], of: str, what: str) -> str:
    if not keys:
        return ""
    is_or_are = "is" if len(keys) == 1 else "are"
    return " ".join(filter(None, [str(len(keys)), of, is_or_are, what, f"(first {keys[0]})"]))


def in_words(error: Exception) -> str:
    """Put an exception into the inside of one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
