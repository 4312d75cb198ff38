"""What all models of a suite share: strict and frozen, with names, shares and view sets of one kind."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fer_bench import views as view_sets

NAME = r"^[a-z0-9][a-z0-9._-]*$"


def _not_a_seed(name: str) -> str:
    """Refuse names that end like a record of one seed, such as resnet18.s0, or of a fold, such as resnet18.s0.f1."""
    if found := re.search(r"\.s\d+(\.f\d+)?$", name):
        raise ValueError(f"{name!r} ends like a seed's record; leave the {found[0]!r} away")
    return name


def each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse lists that name something twice."""
    if len(set(names)) != len(names):
        raise ValueError(f"must name each once, found {', '.join(names)}")
    return names


Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=NAME, max_length=60), AfterValidator(_not_a_seed)]
View = Annotated[str, AfterValidator(view_sets.known), Field(json_schema_extra={"enum": list(view_sets.NAMES)})]
Views = Annotated[tuple[View, ...], Field(min_length=1, strict=False), AfterValidator(each_once)]


class Frozen(BaseModel):
    """A fact that never changes after reading; keys that it does not know are errors.

    Types are those of YAML: ``true`` and ``"1"`` are no numbers. A whole number is a fraction, too, and a tuple is
    written as a list, for which its field says ``strict=False``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
