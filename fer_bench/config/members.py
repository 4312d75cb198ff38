"""A member: one network with everything that decides its weights and its probabilities."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fer_bench.config.base import Fraction, Frozen, Name, NotNegative, Positive, Views

RESERVED_OPTIONS = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "weights", "weights_backbone"),
    *("num_classes", "in_chans", "img_size", "cache_dir"),
}
"""Constructor arguments that would decide weights or shapes behind a record's back."""
GROWING = 0.8
"""Share of the epochs in which images grow, where they do."""
LEAST_SIDE = 32


class Augment(Frozen):
    """Random changes of a training image, each drawn anew for every image of every batch."""

    flip: Fraction = Field(0.5, description="probability of a left-right mirror")
    shift: Fraction = Field(0.0, description="largest shift in x and in y, as a fraction of the side")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="largest rotation, degrees")
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="largest relative change of size")
    brightness: Fraction = Field(0.0, description="largest change of brightness, of the full range")
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="largest relative change of contrast")
    erase: Fraction = Field(0.0, description="probability of filling one random rectangle with the mean gray")


class Sam(Frozen):
    """Sharpness-aware minimisation: the gradient is taken a little uphill of the weights."""

    radius: Positive = Field(0.05, description="how far uphill, as the length of the step in all weights together")
    every: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="steps from one such step to the next")


class Distill(Frozen):
    """Learning from what an ensemble of the board predicts, beside the labels (arXiv 1503.02531)."""

    teacher: str = Field("", description="an ensemble of method fold-average: it has seen no image that it teaches")
    weight: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="share of the teacher in the target")
    temperature: Positive = Field(1.0, description="above 1 the teacher's probabilities are taken closer together")


class Train(Frozen):
    """How a network is fitted. Step counts follow from the data: ``epochs`` times the full batches of an epoch."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 64
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 (else fp16) on CUDA; on the CPU the faster of fp32 and bf16 for the network"
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="sgd has Nesterov momentum")
    lr: Positive = Field(1e-3, description="peak learning rate of the last layer")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of sgd")
    weight_decay: NotNegative = Field(0.05, description="not applied to biases and normalisation layers")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="learning-rate factor a layer downwards")
    schedule: Literal["onecycle", "cosine", "constant"] = Field(
        "onecycle", description="onecycle: cosine up over the warm-up, cosine down; cosine: linear warm-up"
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.25, description="share of all steps")
    final_lr: Fraction = Field(1e-3, description="learning rate of the last step, as a share of the peak")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: Literal["none", "sqrt", "balanced"] = Field(
        "none", description="balanced: inverse class frequency; sqrt: its square root"
    )
    mixup: NotNegative = Field(0.0, description="alpha of the Beta distribution, 0 is off")
    cutmix: NotNegative = Field(
        0.0, description="alpha of the Beta distribution, 0 is off; with mixup, either at even odds"
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay of the averaged weights, 0 is off")
    swa: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="share of the epochs, the last ones, whose weights are averaged: rounded, at least one; 0 is off",
    )
    clip_grad: NotNegative = Field(0.0, description="largest norm of the gradient, 0 is off")
    repeats: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="copies of each image in a batch, each changed by a draw of its own"
    )
    sam: Sam | None = Field(None, description="sharpness-aware minimisation, which costs a second pass in its steps")
    distill: Distill | None = Field(None, description="learn from an ensemble of the board, too")
    start_size: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="side of the first epoch as a share of image_size; all of it from four fifths of the epochs on"
    )

    @property
    def swa_epochs(self) -> int:
        """How many epochs, the last ones, ``swa`` averages: none where it is off, else at least one."""
        return max(1, round(self.swa * self.epochs)) if self.swa else 0

    @model_validator(mode="after")
    def _one_way_of_averaging(self) -> "Train":
        if self.ema and self.swa:
            raise ValueError("ema and swa: both average the weights; set one of them to 0")
        return self


ADDED: Mapping[str, Any] = {
    "sampling": "twice",
    "train.repeats": 1,
    "train.sam": None,
    "train.distill": None,
    "train.start_size": 1.0,
    "train.swa": 0.0,
}
"""Keys of a member that came after the first records, by dotted name, with the values that change nothing."""


class Tuned(Frozen):
    """Where a member's settings come from, if a search chose them; the board says how many trials it took."""

    study: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] = Field(description="digest of the study")
    trials: Annotated[int, Field(ge=1)] = Field(description="trials that ended, complete or pruned")


class Member(Frozen):
    """One network with everything that decides its weights and its probabilities."""

    name: Name
    backbone: Annotated[str, Field(min_length=1)] = Field(
        description="a timm name, torchvision:NAME, scratch:NAME, baseline:mlp or :cnn, dlib:face_recognition_resnet"
    )
    pretrained: bool = True
    weights: str | None = Field(
        None, description="a .pth or .safetensors file, or dlib's own; default: installed package, then hub"
    )
    image_size: Annotated[int, Field(ge=LEAST_SIDE, le=1024)] = Field(48, description="side in pixels after upscaling")
    sampling: Literal["twice", "once"] = Field(
        "twice",
        description="how faces get to image_size: twice: moved and turned at 48 px, then resized, both bilinear; once: "
        "moved, turned and resized in one step, bicubic, which keeps them sharper (smaller sides: shrunk after it)",
    )
    options: dict[str, float | int | str | bool] = Field(
        default_factory=dict, description="handed to the network's constructor, e.g. drop_rate"
    )
    train: Train = Train()
    augment: Augment = Augment()
    views: Views = Field(
        ("none", "flip"), description="test-time view sets to store, such as flip+rotate; the last one is the headline"
    )
    folds: Annotated[int, Field(ge=2, le=20)] | None = Field(
        None, description="also train on all but each of so many parts of Training, for out-of-fold ensembles"
    )
    fold_views: Views | None = Field(None, description="view sets that the fold runs store; default: views")
    tuned: Tuned | None = Field(None, description="the study that chose these settings; decides nothing itself")

    def side_at(self, epoch: int) -> int:
        """The side in pixels of an epoch's images, epochs counted from 0.

        It grows in equal steps from ``start_size`` of the full side, in multiples of 8, to all of it, which the last
        fifth of the epochs has, or the last epoch.
        """
        full, train = self.image_size, self.train
        growing = min(round(GROWING * train.epochs), train.epochs - 1)
        if train.start_size == 1 or epoch >= growing:
            return full
        share = train.start_size + (1 - train.start_size) * epoch / growing
        return min(full, max(LEAST_SIDE, 8 * int(share * full / 8 + 1e-6)))

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides in pixels that images have while it is trained, in their order; the full one is last."""
        return tuple(dict.fromkeys(self.side_at(epoch) for epoch in range(self.train.epochs)))

    @field_validator("options")
    @classmethod
    def _options_decide_no_weights(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in sorted(RESERVED_OPTIONS & options.keys()):
            raise ValueError(f"{key} is not an option of its own: pretrained:, weights: and image_size: decide it")
        return options

    @model_validator(mode="after")
    def _own_networks_have_no_weights(self) -> "Member":
        if self.backbone.startswith(("baseline:", "scratch:")) and (self.pretrained or self.weights):
            raise ValueError(f"{self.backbone} has no pretrained weights: set pretrained: false")
        if self.weights and not self.pretrained:
            raise ValueError("weights: is given, so pretrained: must be true")
        return self

    @model_validator(mode="after")
    def _folds_have_no_teacher(self) -> "Member":
        if self.folds and self.train.distill:
            raise ValueError("folds: would learn from a teacher that has seen the rows they hold out; leave one away")
        return self

    @model_validator(mode="after")
    def _folds_have_views_of_the_member(self) -> "Member":
        if self.fold_views and not self.folds:
            raise ValueError("fold_views: is given, so folds: must say how many")
        if lacking := set(self.fold_views or ()) - set(self.views):
            raise ValueError(f"fold_views: {sorted(lacking)[0]!r} is not among views: {', '.join(self.views)}")
        return self


def identity_of(member: Member) -> dict[str, Any]:
    """The member as it enters a run's identity: every resolved setting but its name and the path of its weights.

    The weights themselves enter by their SHA-256, so the same file at another place is the same run. Folds are further
    runs, which leave the one on all of Training as it is, and which study chose the settings changes nothing. A key of
    ``ADDED`` enters where it is set: what was trained before there was one has the identity that it had.
    """
    found = member.model_dump(mode="json", exclude={"name", "weights", "folds", "fold_views", "tuned"})
    for key, neutral in ADDED.items():
        section, _, last = key.rpartition(".")
        group = found[section] if section else found
        if group[last] == neutral:
            del group[last]
    if member.train.distill:
        del found["train"]["distill"]["teacher"]  # what it teaches enters by its SHA-256
    return found
