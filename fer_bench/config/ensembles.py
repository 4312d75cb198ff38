"""An ensemble: a combination of members, its method and what that can be told."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from fer_bench.config.base import Frozen, Name, Positive, Views, each_once
from fer_bench.config.members import Member
from fer_bench.config.reading import first_problem


class NoParameters(Frozen):
    """A vote that has nothing to set."""


class WeightedVote(Frozen):
    """Soft vote with weights of least negative log-likelihood on the rows of ``fit_on``."""

    pull: Positive = Field(0.01, description="towards uniform weights, as a share of the images that speak for them")


class Greedy(Frozen):
    """Forward selection with replacement (Caruana et al., 2004)."""

    bags: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="selections that are averaged")
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="of the members that each bag may pick from; with fewer than ten take 1, or bags lack the best"
    )
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
    members: Annotated[tuple[str, ...], Field(min_length=1, strict=False), AfterValidator(each_once)]
    submitted: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(each_once)] = Field(
        (), description="rows of the board from `fer-bench submit` that take part, with one set of probabilities each"
    )
    views: Views = Field(
        default_factory=tuple, description="default: the sets that all members store, in the order of the first member"
    )

    def stored_by(self, member: Member) -> tuple[str, ...]:
        """The view sets that a member stores of the runs that the ensemble combines."""
        return (member.fold_views if self.of_folds else None) or member.views

    def resolved(self, members: Mapping[str, Member]) -> "Ensemble":
        """The ensemble with its view sets, where none is given and its members are among ``members``."""
        if self.views or not members.keys() >= set(self.members):
            return self
        stored = [self.stored_by(members[name]) for name in self.members]
        common = tuple(view for view in stored[0] if all(view in views for views in stored))
        if not common:
            raise ValueError(f"ensemble {self.name!r}: no view set is stored by all of its members; see their views:")
        return self.model_copy(update={"views": common})

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
        if self.submitted and self.of_folds:
            raise ValueError("submitted: rows have no fold runs; leave fit_on: and fold-average away")
        if self.fit_on == "Training" and nothing:
            raise ValueError(
                f"{self.method} fits nothing, so fit_on: has no meaning; fold-average votes over fold runs"
            )
        return self
