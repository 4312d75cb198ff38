"""What a study searches: dimensions over the keys of a suite member, as plain data with a hash.

A key is a path such as ``train.lr`` or ``options.drop_rate``. ``augment.strength`` is the one key that a member does
not have: it multiplies the member's own shifts, rotations and changes of size, brightness and contrast. A key may have
several dimensions, each under a condition, such as a range of learning rates for each optimizer.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from fer_bench.config import Frozen, Member, Train, first_problem, identity_of, read_yaml
from fer_bench.errors import UserError
from fer_bench.files import canonical_json, sha256_bytes

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Scalar = bool | int | float | str
Values = dict[str, Scalar]

STRENGTH = "augment.strength"
STRENGTHENED = {"shift": 1.0, "rotate": 180.0, "scale": 0.99, "brightness": 1.0, "contrast": 0.99}
"""The augmentations that ``augment.strength`` multiplies, each with the most that it may become."""
PLAIN = ("image_size", "sampling")
"""The keys in no section that a study can search."""
NOT_SEARCHED = {"train.epochs": "scores after different numbers of epochs cannot be compared"}
NOT_SEARCHED["train.precision"] = "it is the machine's business"


class Dimension(Frozen):
    """The values of one key: a range (float, ``integer`` or on a ``log`` scale) or ``choices``; ``when`` it counts."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: tuple[Scalar, ...] | None = Field(None, min_length=1, strict=False)
    when: Values = Field(default_factory=dict, description="values that other keys must have")

    @model_validator(mode="after")
    def _one_form(self) -> "Dimension":
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.integer:
                raise ValueError("give choices, or low and high, not both")
            if len(set(map(repr, self.choices))) != len(self.choices):
                raise ValueError(f"choices must differ, found {list(self.choices)}")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"low must lie below high, found {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale needs low above 0, found {self.low:g}")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"integer needs whole numbers, found low {self.low:g} and high {self.high:g}")
        return self

    def holds(self, value: Scalar) -> bool:
        """Whether a value is one of the dimension's."""
        if self.choices is not None:
            return any(value == choice and isinstance(value, str) == isinstance(choice, str) for choice in self.choices)
        assert self.low is not None
        assert self.high is not None
        return isinstance(value, int | float) and self.low <= value <= self.high

    def tidy(self, value: Scalar) -> Scalar:
        """A sampled value as people would write it: three significant digits, inside the range."""
        if self.choices is not None or self.integer or not isinstance(value, float):
            return value
        assert self.low is not None
        assert self.high is not None
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def distribution(self) -> "BaseDistribution":
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Space:
    """Where a search starts (``member``, the default setting), what it may change, and settings to try first."""

    member: Member
    dimensions: dict[str, tuple[Dimension, ...]]
    known: tuple[Values, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The default setting and the dimensions as JSON; what is known to be good decides no result."""
        found = {
            key: [dimension.model_dump(mode="json", exclude_defaults=True) for dimension in alternatives]
            for key, alternatives in self.dimensions.items()
        }
        return {"member": identity_of(self.member), "space": found}

    @property
    def digest(self) -> str:
        """Sha256 in hex of the default setting and the dimensions."""
        return sha256_bytes(canonical_json(self.plain()))

    def active(self, values: Values) -> Iterator[tuple[str, str, Dimension]]:
        """Yield (key, name of the parameter, dimension) in order, while ``values`` is filled from outside."""
        unconditional = [key for key, found in self.dimensions.items() if not any(d.when for d in found)]
        for key in [*unconditional, *(key for key in self.dimensions if key not in unconditional)]:
            for dimension in self.dimensions[key]:
                if all(self._value(other, values) == wanted for other, wanted in dimension.when.items()):
                    condition = ",".join(str(wanted) for wanted in dimension.when.values())
                    yield key, f"{key}[{condition}]" if condition else key, dimension
                    break

    def _value(self, key: str, values: Values) -> Scalar | None:
        return values[key] if key in values else look_up(self.member, key)

    def complete(self, given: Values) -> Values:
        """A whole point: the given values, and the default setting's for the other keys that count.

        Raises:
            UserError: a key that is not searched, or a value outside its dimension, the default's included.
        """
        values: Values = {}
        for key, _, dimension in self.active(values):
            value = given.get(key, look_up(self.member, key))
            if value is None or not dimension.holds(value):
                raise UserError(_outside(key, value, dimension, key in given))
            values[key] = value
        for key in given.keys() - values.keys():
            hint = "the space searches " + ", ".join(self.dimensions)
            raise UserError(f"known.{key}: not searched, or not under these values; {hint}")
        return values

    def parameters(self, values: Values) -> tuple[Values, dict[str, "BaseDistribution"]]:
        """A point as Optuna keeps it: parameters by name, and their distributions."""
        found = [(name, values[key], dimension) for key, name, dimension in self.active(values)]
        return {name: value for name, value, _ in found}, {name: d.distribution() for name, _, d in found}


def values_of(parameters: Values) -> Values:
    """A point by key, from Optuna's parameters: ``train.lr[adamw]`` is a value of ``train.lr``."""
    return {name.split("[")[0]: value for name, value in parameters.items()}


def _outside(key: str, value: Scalar | None, dimension: Dimension, given: bool) -> str:
    kept = dimension.model_dump(mode="json", exclude_defaults=True, exclude={"when"})
    where = f"known.{key}" if given else f"member.{key}"
    if value is None:
        return f"{where}: the default setting must give it a value, since the space searches it"
    return f"{where}: {value!r} lies outside of what the space searches there, {kept}; change either"


def look_up(member: Member, key: str) -> Scalar | None:
    """A member's value of a key; None where it has none."""
    if key == STRENGTH:
        return 1.0
    section, _, name = key.rpartition(".")
    if section == "options":
        return member.options.get(name)
    return getattr(getattr(member, section) if section else member, name, None)


def member_with(member: Member, values: Values) -> Member:
    """A member with other values for some keys.

    Raises:
        UserError: a key or value that a member cannot have.
    """
    raw = member.model_dump(mode="json")
    strength = float(values.get(STRENGTH, 1.0))
    for name, most in STRENGTHENED.items():
        raw["augment"][name] = min(round(raw["augment"][name] * strength, 4), most)
    for key, value in values.items():
        if key != STRENGTH:
            section, _, name = key.rpartition(".")
            (raw[section] if section else raw)[name] = value
    return checked_member(raw)


def checked_member(raw: dict[str, Any]) -> Member:
    """A member from plain data; what it cannot have is a UserError with the key path."""
    try:
        member = Member.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"the setting {first_problem(error, Member)}") from None
    if member.train.distill:
        raise UserError("the setting train.distill: a study has no board, and its holdout no teacher; leave it away")
    return member


class SpaceFile(Frozen):
    """The YAML form: changes to the default setting and to the space of the backbone's family."""

    inherit: bool = Field(True, description="search the dimensions of the backbone's family too")
    member: dict[str, Any] = Field(default_factory=dict, description="the default setting: keys of a suite's member")
    space: dict[str, Any] = Field(default_factory=dict, description="a dimension, a list of them, or a fixed value")
    known: tuple[Values, ...] = Field((), strict=False, description="settings to try first")


def load_file(path: Path) -> SpaceFile:
    """Read a space file; a mistake is a UserError with file and key path."""
    if not path.is_file():
        raise UserError(f"--space {path}: no such file; fer-bench tune --dry-run prints a space to begin with")
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a space file is a mapping with keys such as member and space")
    try:
        found = SpaceFile.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error, SpaceFile)}") from None
    if taken := found.member.keys() & {"name", "backbone"}:
        raise UserError(f"{path}: member.{min(taken)}: comes from the command, leave it out")
    return found


def lay_over(default: Space, changes: SpaceFile) -> Space:
    """A default space, made around the file's ``member`` already, with the file's dimensions and known settings."""
    member, dimensions = default.member, dict(default.dimensions) if changes.inherit else {}
    for key, given in changes.space.items():
        _refuse_key(key)
        dimensions.pop(key, None)
        if isinstance(given, dict | list):
            dimensions[key] = _dimensions(key, given)
        else:
            member = _fixed(member, key, given)
    if not dimensions:
        raise UserError("space: nothing is left to search; give a key a range or choices, or leave inherit: false out")
    space = Space(member, dimensions)
    return checked(replace(space, known=changes.known or fitting(space, default.known)))


def fitting(space: Space, known: Iterable[Values]) -> tuple[Values, ...]:
    """The settings that lie in a space, which may have been moved away from them."""

    def lies_in(given: Values) -> bool:
        try:
            return bool(space.complete(given))
        except UserError:
            return False

    return tuple(given for given in known if lies_in(given))


def _fixed(member: Member, key: str, value: Any) -> Member:
    """The member with a fixed value; null fixes the value that it has."""
    return member if value is None else member_with(member, {key: value})


def _dimensions(key: str, given: dict | list) -> tuple[Dimension, ...]:
    rows = given if isinstance(given, list) else [given]
    try:
        found = tuple(Dimension.model_validate(row) for row in rows)
    except ValidationError as error:
        raise UserError(f"space.{key}: {first_problem(error, Dimension)}") from None
    if len(found) != 1 and not (found and all(dimension.when for dimension in found)):
        raise UserError(f"space.{key}: several dimensions each need a when, found {given!r}")
    return found


def _refuse_key(key: str) -> None:
    if key in NOT_SEARCHED:
        raise UserError(f"space.{key}: set it under member, {NOT_SEARCHED[key]}")
    section, _, name = key.rpartition(".")
    known = {"train": Train.model_fields, "augment": [*Member.model_fields["augment"].default.model_dump(), "strength"]}
    if key in PLAIN or (section == "options" and name) or name in known.get(section, ()):
        return
    raise UserError(
        f"space.{key}: no such key; {', '.join(PLAIN)}, train.KEY, augment.KEY and options.KEY can be searched"
    )


def checked(space: Space) -> Space:
    """Check a space as far as that needs no network: conditions, the start, what is known, and every end of a range.

    Raises:
        UserError: the first key that does not fit, with what was found.
    """
    for key, alternatives in space.dimensions.items():
        for other in (other for dimension in alternatives for other in dimension.when):
            _refuse_condition(space, key, other)
        for value in _ends(alternatives):
            try:
                member_with(space.member, {key: value})
            except UserError as error:
                raise UserError(f"space.{key}: {error}") from None
    for given in ({}, *space.known):
        member_with(space.member, space.complete(given))
    return space


def _refuse_condition(space: Space, key: str, other: str) -> None:
    conditional = any(dimension.when for dimension in space.dimensions.get(other, ()))
    if conditional or look_up(space.member, other) is None:
        raise UserError(f"space.{key}.when: {other} must be a key of the member that has no condition of its own")


def _ends(alternatives: Iterable[Dimension]) -> Iterator[Scalar]:
    for dimension in alternatives:
        for value in dimension.choices or (dimension.low, dimension.high):
            if value is not None:
                yield int(value) if dimension.integer else value
