"""Suite YAML -> frozen models.

A suite asks the questions: which members (a member is a fully resolved configuration), which seeds, which ensembles.
Unknown and duplicate keys are refused with their path. A member without its name, as ``identity_of`` gives it, is
part of a run's identity: two members that train alike share one run, and a changed setting is another run. A key that
is added later must have a neutral default and be left out of the identity while it holds that default.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fer_bench import views as view_sets
from fer_bench.errors import UserError

PROTOCOL = "fer2013-v1"
NAME = r"^[a-z0-9][a-z0-9._-]*$"


def _not_a_seed(name: str) -> str:
    """Refuse names that end like a record of one seed, such as resnet18.s0, or of a fold, such as resnet18.s0.f1."""
    if found := re.search(r"\.s\d+(\.f\d+)?$", name):
        raise ValueError(f"{name!r} ends like a seed's record; leave the {found[0]!r} away")
    return name


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError(f"must name each once, found {', '.join(names)}")
    return names


def _not_a_folder(name: str) -> str:
    if name in ("audit", "benchmark", "checkpoints", "tune", "weights"):
        raise ValueError(f"{name!r} is a folder of its own; give the suite another name")
    return name


RESERVED_OPTIONS = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "weights", "weights_backbone"),
    *("num_classes", "in_chans", "img_size", "cache_dir"),
}
"""Constructor arguments that would decide weights or shapes behind a record's back."""

Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=NAME, max_length=60), AfterValidator(_not_a_seed)]
View = Annotated[str, AfterValidator(view_sets.known), Field(json_schema_extra={"enum": list(view_sets.NAMES)})]
Views = Annotated[tuple[View, ...], Field(min_length=1, strict=False), AfterValidator(_each_once)]


class Frozen(BaseModel):
    """A fact that never changes after reading; keys that it does not know are errors.

    Types are those of YAML: ``true`` and ``"1"`` are no numbers. A whole number is a fraction, too, and a tuple is
    written as a list, for which its field says ``strict=False``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Augment(Frozen):
    """Random changes of a training image, each drawn anew for every image of every batch."""

    flip: Fraction = Field(0.5, description="probability of a left-right mirror")
    shift: Fraction = Field(0.0, description="largest shift in x and in y, as a fraction of the side")
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="largest rotation, degrees")
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="largest relative change of size")
    brightness: Fraction = Field(0.0, description="largest change of brightness, of the full range")
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="largest relative change of contrast")
    erase: Fraction = Field(0.0, description="probability of filling one random rectangle with the mean gray")


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
    clip_grad: NotNegative = Field(0.0, description="largest norm of the gradient, 0 is off")


class Tuned(Frozen):
    """Where a member's settings come from, if a search chose them; the board says how many trials it took."""

    study: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] = Field(description="digest of the study")
    trials: Annotated[int, Field(ge=1)] = Field(description="trials that ended, complete or pruned")


class Member(Frozen):
    """One network with everything that decides its weights and its probabilities."""

    name: Name
    backbone: Annotated[str, Field(min_length=1)] = Field(
        description="a timm name, torchvision:NAME, baseline:mlp or baseline:cnn"
    )
    pretrained: bool = True
    weights: str | None = Field(None, description="a .pth or .safetensors file; default: installed package, then hub")
    image_size: Annotated[int, Field(ge=32, le=1024)] = Field(48, description="side in pixels after upscaling")
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

    @field_validator("options")
    @classmethod
    def _options_decide_no_weights(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in sorted(RESERVED_OPTIONS & options.keys()):
            raise ValueError(f"{key} is not an option of its own: pretrained:, weights: and image_size: decide it")
        return options

    @model_validator(mode="after")
    def _baselines_have_no_weights(self) -> "Member":
        if self.backbone.startswith("baseline:") and (self.pretrained or self.weights):
            raise ValueError(f"{self.backbone} has no pretrained weights: set pretrained: false")
        if self.weights and not self.pretrained:
            raise ValueError("weights: is given, so pretrained: must be true")
        return self

    @model_validator(mode="after")
    def _folds_have_views_of_the_member(self) -> "Member":
        if self.fold_views and not self.folds:
            raise ValueError("fold_views: is given, so folds: must say how many")
        if lacking := set(self.fold_views or ()) - set(self.views):
            raise ValueError(f"fold_views: {sorted(lacking)[0]!r} is not among views: {', '.join(self.views)}")
        return self


class NoParameters(Frozen):
    """A vote that has nothing to set."""


class WeightedVote(Frozen):
    """Soft vote with weights of least negative log-likelihood on the rows of ``fit_on``."""

    pull: Positive = Field(0.01, description="towards uniform weights, as a share of the images that speak for them")


class Greedy(Frozen):
    """Forward selection with replacement (Caruana et al., 2004)."""

    bags: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="selections that are averaged")
    share: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="of the members that each bag may pick from")
    size: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="most picks of a bag")
    metric: Literal["nll", "accuracy"] = Field("nll", description="what a pick must improve on the rows of fit_on")


class StackLogistic(Frozen):
    """Multinomial logistic regression on the members' log-probabilities."""

    strength: Positive = Field(0.03, description="of the L2 penalty, against the mean loss of an image")


class StackTrees(Frozen):
    """Gradient-boosted trees on the members' log-probabilities."""

    iterations: Annotated[int, Field(ge=1, le=10_000)] = 50
    learning_rate: Positive = 0.1
    leaves: Annotated[int, Field(ge=2, le=1000)] = Field(8, description="most leaves of a tree")
    leaf_images: Annotated[int, Field(ge=1)] = Field(20, description="fewest images of a leaf")
    features: Annotated[float, Field(gt=0, le=1)] = Field(0.2, description="share of the inputs tried at each split")


PARAMETERS: dict[str, type[Frozen]] = {
    "soft-vote": NoParameters,
    "hard-vote": NoParameters,
    "fold-average": NoParameters,
    "geometric-mean": NoParameters,
    "weighted-vote": WeightedVote,
    "greedy": Greedy,
    "stack-logistic": StackLogistic,
    "stack-trees": StackTrees,
}


class Ensemble(Frozen):
    """A combination of members named in advance, or of the seeds of one; every seed of a member takes part.

    What a method or a temperature fits, it fits on PublicTest, and its own score there is cross-fitted. With
    ``fit_on: Training`` the members are their fold runs: the fit sees each row of Training as the run predicts it that
    held it out, and combines the averaged fold models on the other parts.
    """

    name: Name
    method: Literal[
        "soft-vote",
        "hard-vote",
        "geometric-mean",
        "fold-average",
        "weighted-vote",
        "greedy",
        "stack-logistic",
        "stack-trees",
    ] = "soft-vote"
    parameters: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="of the method; what is left out takes its default"
    )
    temperature: Literal["none", "before", "after"] = Field(
        "none", description="temperature scaling, of each member before or of the combination after"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="of the folds and of what a method draws")
    fit_on: Literal["PublicTest", "Training"] = Field(
        "PublicTest", description="Training: out-of-fold, on the fold runs of members that have folds:"
    )
    members: Annotated[tuple[str, ...], Field(min_length=1, strict=False), AfterValidator(_each_once)]
    views: Views = ("none", "flip")

    @property
    def of_folds(self) -> bool:
        """Whether it combines the fold runs of its members, and not the runs on all of Training."""
        return self.method == "fold-average" or self.fit_on == "Training"

    @field_validator("parameters")
    @classmethod
    def _parameters_of_the_method(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        model = PARAMETERS.get(info.data.get("method", ""), NoParameters)
        try:
            return model.model_validate(given).model_dump(mode="json")
        except ValidationError as error:
            raise ValueError(first_problem(error, model)) from None

    @model_validator(mode="after")
    def _a_temperature_has_work(self) -> "Ensemble":
        if self.method == "hard-vote" and self.temperature == "before":
            raise ValueError("temperature: before changes no hard vote; use after or none")
        return self

    @model_validator(mode="after")
    def _there_is_something_to_combine(self) -> "Ensemble":
        nothing = PARAMETERS[self.method] is NoParameters and self.temperature == "none"
        if self.method == "fold-average" and (self.fit_on != "PublicTest" or self.temperature != "none"):
            raise ValueError("fold-average fits nothing; soft-vote with fit_on: Training can take a temperature")
        if self.fit_on == "Training" and nothing:
            raise ValueError(
                f"{self.method} fits nothing, so fit_on: has no meaning; fold-average votes over fold runs"
            )
        return self


class Suite(Frozen):
    """The questions of one YAML file."""

    suite: Annotated[Name, AfterValidator(_not_a_folder)]
    data: Literal["fer2013", "toyfaces"] = "fer2013"
    protocol: Literal["fer2013-v1"] = "fer2013-v1"
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1, strict=False)] = (0,)
    defaults: dict[str, Any] = Field(default_factory=dict, description="merged below every member")
    members: Annotated[tuple[Member, ...], Field(min_length=1, strict=False)]
    ensembles: Annotated[tuple[Ensemble, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> "Suite":
        names = [member.name for member in self.members] + [ensemble.name for ensemble in self.ensembles]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]!r} is used twice")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: must differ")
        members = {member.name: member for member in self.members}
        for ensemble in self.ensembles:
            _check_ensemble(ensemble, members)
            if len(ensemble.members) * len(self.seeds) < 2 and not ensemble.of_folds:
                only = ensemble.members[0]
                raise ValueError(
                    f"ensemble {ensemble.name!r}: members: needs two or more, or two seeds; found {only!r} alone"
                )
        return self


def _check_ensemble(ensemble: Ensemble, members: dict[str, Member]) -> None:
    for name in ensemble.members:
        if name not in members:
            raise ValueError(
                f"ensemble {ensemble.name!r}: no member is called {name!r}; there are {', '.join(members)}"
            )
        member = members[name]
        if ensemble.of_folds and not member.folds:
            raise ValueError(f"ensemble {ensemble.name!r} combines fold runs, and member {name!r} has no folds:")
        stored = (member.fold_views if ensemble.of_folds else None) or member.views
        lacking = set(ensemble.views) - set(stored)
        if lacking:
            which = f"view set {sorted(lacking)[0]!r}" + ("" if stored is member.views else " for its folds")
            raise ValueError(f"ensemble {ensemble.name!r}: member {name!r} stores no {which}")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number and refuses duplicate keys."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        where = f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}"
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{where}: a key must be a word, found a list or a mapping")
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise UserError(f"{where}: the key {key!r} stands twice")
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load_suite(path: Path) -> Suite:
    """Read and check a suite file.

    Raises:
        UserError: one line with the file, the key path, what was found and what is expected.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}: a suite is a mapping with keys such as suite, data, members; found {type(raw).__name__}"
        )
    defaults = raw.get("defaults") or {}
    if isinstance(raw.get("members"), list) and isinstance(defaults, dict):
        raw = raw | {"members": [merge(defaults, row) if isinstance(row, dict) else row for row in raw["members"]]}
    try:
        return Suite.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}") from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file: numbers such as 1e-3 are numbers, a key that stands twice is an error with its line."""
    try:
        text = path.read_text(encoding="utf-8")
        loader = _Loader(text)
        loader.name = str(path)
        return loader.get_single_data()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the suites that come with the project are in suites/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path}: not valid YAML: a value cannot be read ({reason})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or 'cannot be parsed'}") from None


def merge(below: dict, above: dict) -> dict:
    """Lay ``above`` over ``below``, section by section."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def first_problem(error: ValidationError, section: type[Frozen] | None = None) -> str:
    """Say in one line what is wrong first, with its key path; ``section`` is the model whose keys are suggested."""
    every = error.errors(include_url=False)
    deeper = [row["loc"] for row in every]
    problems = [
        row for row in every if not any(len(d) > len(row["loc"]) and d[: len(row["loc"])] == row["loc"] for d in deeper)
    ]
    first = problems[0]
    path = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping", message)
    message = re.sub(r"valid tuple|valid list|Tuple", "list", message).replace(" after validation", "")
    if first["type"] == "extra_forbidden":
        message = f"unknown key{_near(first['loc'], section)}"
    elif not isinstance(first["input"], dict) and first["type"] != "value_error":
        message = f"{message}, found {first['input']!r}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return (f"{path}: " if path else "") + message + more


def _is_inside(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _near(location: tuple[int | str, ...], section: type[Frozen] | None = None) -> str:
    import difflib

    model: dict[str, type[Frozen]] = {"train": Train, "augment": Augment, "tuned": Tuned, "members": Member}
    model["ensembles"] = Ensemble
    section = section or next((model[str(part)] for part in reversed(location[:-1]) if str(part) in model), Suite)
    known = list(section.model_fields)
    if not known:
        return "; this method has none"
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def identity_of(member: Member) -> dict[str, Any]:
    """The member as it enters a run's identity: every resolved setting but its name and the path of its weights.

    The weights themselves enter by their SHA-256, so the same file at another place is the same run. Folds are further
    runs, which leave the one on all of Training as it is, and which study chose the settings changes nothing.
    """
    return member.model_dump(mode="json", exclude={"name", "weights", "folds", "fold_views", "tuned"})


def suite_file(name: str) -> str:
    """Where the project keeps a suite, relative to its top; those that a study wrote have a folder of their own."""
    return f"suites/tuned/{name.removeprefix('tuned-')}.yaml" if name.startswith("tuned-") else f"suites/{name}.yaml"


def schema() -> dict[str, Any]:
    """The JSON schema of suite files, for editors.

    Members may leave out what ``defaults`` gives, so only their name is required.
    """
    found = Suite.model_json_schema()
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    found["title"] = "fer-bench suite"
    found["$defs"]["Member"]["required"] = ["name"]
    defaults = {key: value for key, value in found["$defs"]["Member"]["properties"].items() if key != "name"}
    sets = list(dict.fromkeys(PARAMETERS.values()))
    found["$defs"]["Ensemble"]["properties"]["parameters"] |= {"anyOf": [model.model_json_schema() for model in sets]}
    found["properties"]["defaults"] = {"type": "object", "additionalProperties": False, "properties": defaults}
    return found
