"""Published figures and confusion matrices, read from a board's ``published.yaml``.

They cannot be tested in pairs with rows of the board, since nobody kept the probabilities; each carries the class of
protocol that it was made with instead.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fer_bench.config import read_yaml
from fer_bench.errors import UserError

FILE = "published.yaml"
TEST_ROWS = 3589

Percent = Annotated[float, Field(ge=0, le=100)]
Text = Annotated[str, Field(min_length=1)]
ProtocolClass = Literal["clean", "test-selected", "other split", "unverified", "invalid"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Source(_Strict):
    """Where a figure was published; ``issues`` are numbers of the GitHub repository's issues that bear on it."""

    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")] | None = None
    github: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    doi: Annotated[str, Field(pattern=r"^10\.\d+/\S+$")] | None = None
    text: Text | None = None
    issues: tuple[int, ...] = Field((), strict=False)


class Method(_Strict):
    """One published figure; None is "not stated" or "does not apply"."""

    name: Text
    year: int | None
    accuracy: Percent
    plus_minus: Percent | None = None
    reproduced: Annotated[tuple[Percent, Percent] | None, Field(strict=False)] = None  # lowest, highest, by others
    public_test: Percent | None = None
    models: Annotated[int, Field(ge=1)] | None
    parameters_millions: Annotated[float, Field(gt=0)] | None = None
    pretraining: Text | None
    tta: Text | None
    protocol_class: ProtocolClass | None
    part: Literal["PrivateTest", "PublicTest", "both test parts", "own copy", "unknown"]
    source: Source | None
    note: str = ""

    @model_validator(mode="after")
    def _reproduced_in_order(self) -> "Method":
        if self.reproduced and self.reproduced[0] > self.reproduced[1]:
            raise ValueError(f"reproduced: the lowest comes first, found {list(self.reproduced)}")
        return self


class Confusion(_Strict):
    """A published confusion matrix; rows are the truth, columns the prediction, in the order of ``EMOTIONS``."""

    name: Text
    part: Literal["PrivateTest", "PublicTest"]
    unit: Literal["counts", "shares"]
    note: str = ""
    rows: list[list[Annotated[float, Field(ge=0)]]]

    @model_validator(mode="after")
    def _is_a_matrix(self) -> "Confusion":
        if [len(row) for row in self.rows] != [7] * 7:
            raise ValueError(f"{self.name}: rows must be 7 by 7, found lengths {[len(row) for row in self.rows]}")
        if self.unit == "shares" and any(abs(sum(row) - 1) > 0.036 for row in self.rows):  # 7 roundings of 0.005
            raise ValueError(f"{self.name}: each row of shares must sum to 1 within rounding")
        if self.unit == "counts" and self.total != TEST_ROWS and f"{self.total:,}" not in self.note:
            raise ValueError(f"{self.name}: sums to {self.total:,.0f}, not {TEST_ROWS:,}; the note must give that sum")
        return self

    @property
    def total(self) -> int:
        """Sum of all cells: the images, where the unit is counts."""
        return round(sum(map(sum, self.rows)))

    @property
    def recall(self) -> tuple[float, ...]:
        """Recall of each class: the diagonal, of counts as a share of its row, of shares as printed."""
        return tuple(row[i] / (sum(row) if self.unit == "counts" else 1) for i, row in enumerate(self.rows))


class Published(_Strict):
    """The whole file."""

    methods: tuple[Method, ...] = Field((), strict=False)
    confusions: tuple[Confusion, ...] = Field((), strict=False)

    @model_validator(mode="after")
    def _names_once(self) -> "Published":
        names = [method.name for method in self.methods]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"methods: the name {twice[0]!r} stands twice")
        unknown = [confusion.name for confusion in self.confusions if confusion.name not in names]
        if unknown:
            raise ValueError(f"confusions: {unknown[0]!r} is the name of no method")
        return self


def load(board: Path) -> Published | None:
    """Read a board's published figures; None where it has no such file.

    Raises:
        UserError: one line with the file, the key path and what is wrong.
    """
    path = board / FILE
    if not path.exists():
        return None
    try:
        return Published.model_validate(read_yaml(path) or {})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {where + ': ' if where else ''}{message}") from None
