"""A suite: the questions of one YAML file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fer_bench.config.base import Frozen, Name
from fer_bench.config.ensembles import PARAMETERS, Ensemble
from fer_bench.config.members import Member
from fer_bench.config.reading import first_problem, merge, read_yaml
from fer_bench.errors import UserError, meant

PROTOCOL = "fer2013-v1"
FOLDERS = ("audit", "benchmark", "checkpoints", "errors", "locks", "looks", "records.zip", "speed", "tune", "weights")
"""What has a place in ``runs/`` of its own, where the board of a suite of that name would be mixed with it."""


def _not_a_folder(name: str) -> str:
    if name in FOLDERS:
        raise ValueError(f"{name!r} is a folder of its own; give the suite another name")
    if re.search(r"-limit\d+$", name):
        raise ValueError(f"{name!r} ends like the folder of a run with --limit; give the suite another name")
    return name


class Suite(Frozen):
    """The questions of one YAML file."""

    suite: Annotated[Name, AfterValidator(_not_a_folder)]
    data: Literal["fer2013", "toyfaces"] = "fer2013"
    protocol: Literal["fer2013-v1"] = "fer2013-v1"
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1, strict=False)] = (0,)
    defaults: dict[str, Any] = Field(default_factory=dict, description="merged below every member")
    include: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="suite files beside this one whose members, and their teachers, are this suite's, with its seeds",
    )
    members: Annotated[tuple[Member, ...], Field(min_length=1, strict=False)]
    ensembles: Annotated[tuple[Ensemble, ...], Field(strict=False)] = ()

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("ensembles")
    @classmethod
    def _views_follow_the_members(cls, given: tuple[Ensemble, ...], info: ValidationInfo) -> tuple[Ensemble, ...]:
        members = {member.name: member for member in info.data.get("members", ())}
        return tuple(ensemble.resolved(members) for ensemble in given)

    @model_validator(mode="after")
    def _names_fit(self) -> "Suite":
        names = [member.name for member in self.members] + [ensemble.name for ensemble in self.ensembles]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]!r} is used twice")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: must differ")
        for index, member in enumerate(self.members):
            if member.train.distill and not member.train.distill.teacher:
                where = f"members.{index}.train.distill.teacher"
                raise ValueError(f"{where}: must name an ensemble of fold runs, such as a fold-average")
        members = {member.name: member for member in self.members}
        problems = [what for ensemble in self.ensembles for what in _problems_of(ensemble, members, len(self.seeds))]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def place(self, member: Member) -> str:
        """Where a member stands: ``members.2 (NAME)``, or the file that it is included from."""
        if member.name in self._origins:
            return f"{member.name}, included from {self._origins[member.name]}"
        return f"members.{self.members.index(member)} ({member.name})"

    @property
    def taught(self) -> tuple[Member, ...]:
        """Members that learn from an ensemble of this suite: they wait until it is built."""
        ensembles = {ensemble.name for ensemble in self.ensembles}
        return tuple(m for m in self.members if m.train.distill and m.train.distill.teacher in ensembles)

    def with_only(self, names: Sequence[str]) -> "Suite":
        """The suite with the members of these names alone and no ensembles; the whole suite where none is named.

        Raises:
            UserError: for a name that no member has.
        """
        if not names:
            return self
        known = [member.name for member in self.members]
        for name in names:
            if name not in known:
                raise UserError(f"--member: {self._no_member(name)}")
        return self.model_copy(update={"members": tuple(m for m in self.members if m.name in names), "ensembles": ()})

    def _no_member(self, name: str) -> str:
        known = [member.name for member in self.members]
        if name in [ensemble.name for ensemble in self.ensembles]:
            return f"{name!r} is an ensemble of {self.suite}; `fer-bench ensemble` builds those from their members"
        return f"{self.suite} has no member {name!r}; {meant(name, known)}"


def _problems_of(ensemble: Ensemble, members: dict[str, Member], seeds: int) -> Iterator[str]:
    """Yield what keeps an ensemble from being built of these members."""
    here = f"ensemble {ensemble.name!r}"
    for name in ensemble.submitted:
        if name in members:
            yield f"{here}: submitted: {name!r} is a member of this suite; list it there"
    for name in ensemble.members:
        if name not in members:
            yield f"{here}: no member is called {name!r}; {meant(name, list(members))}"
            continue
        member = members[name]
        stored = ensemble.stored_by(member)
        if ensemble.of_folds and not member.folds:
            yield f"{here} combines fold runs, and member {name!r} has no folds:"
        elif lacking := set(ensemble.views) - set(stored):
            which = f"view set {sorted(lacking)[0]!r}" + ("" if stored is member.views else " for its folds")
            yield f"{here}: member {name!r} stores no {which}; it has {', '.join(stored)}"
    if len(ensemble.members) * seeds + len(ensemble.submitted) < 2 and not ensemble.of_folds:
        yield f"{here}: members: needs two or more, or two seeds; found {ensemble.members[0]!r} alone"


def load_suite(path: Path, above: Sequence[Path] = ()) -> Suite:
    """Read and check a suite file and those that it includes; ``above`` are the files that include it.

    Raises:
        UserError: one line with the file, the key path, what was found and what is expected.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}: a suite is a mapping with keys such as suite, data, members; found {type(raw).__name__}"
        )
    defaults, own = raw.get("defaults") or {}, raw.get("members")
    if isinstance(raw.get("members"), list) and isinstance(defaults, dict):
        raw = raw | {"members": [merge(defaults, row) if isinstance(row, dict) else row for row in raw["members"]]}
    included, teachers = _included(path, raw, (*above, path.resolve()))
    if included and isinstance(raw.get("members", []), list):
        _refuse_names_of_included(path, raw, included)
        raw = raw | {"members": [*raw.get("members", []), *(member for member, _ in included.values())]}
        if teachers and isinstance(raw.get("ensembles", []), list):
            raw = raw | {"ensembles": [*raw.get("ensembles", []), *teachers.values()]}
    try:
        suite = Suite.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: {_placed(first_problem(error, Suite), own, defaults)}") from None
    suite._origins.update({name: file for name, (_, file) in included.items()})
    return suite


def _placed(problem: str, rows: Any, defaults: Any) -> str:
    """What is wrong with a member, told of ``defaults`` where it stands there and not in the member."""
    found = re.match(r"members\.(\d+)\.([\w.]+)", problem)
    if found is None or not isinstance(rows, list) or int(found[1]) >= len(rows):
        return problem
    keys = found[2].split(".")
    if _has(rows[int(found[1])], keys) or not _has(defaults, keys):
        return problem
    return f"defaults.{found[2]}{problem[found.end() :]}"


def _has(tree: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


def _included(
    path: Path, raw: dict[str, Any], above: Sequence[Path]
) -> tuple[dict[str, tuple[Member, str]], dict[str, Ensemble]]:
    """Members of the suites that a file includes, by name, each with its file; ensembles there that teach some of them.

    Raises:
        UserError: a file that cannot be read, includes itself, is of other data, or calls another member by a name.
    """
    found: dict[str, tuple[Member, str]] = {}
    teachers: dict[str, Ensemble] = {}
    names = raw.get("include")
    for name in names if isinstance(names, list) and all(isinstance(each, str) for each in names) else []:
        file = path.parent / name
        if not file.is_file():
            raise UserError(f"{path}: include: no file {name} beside this suite")
        if file.resolve() in above:
            raise UserError(f"{path}: include: {name} includes this suite again")
        suite = load_suite(file, above)
        if suite.data != (data := raw.get("data", Suite.model_fields["data"].default)):
            raise UserError(f"{path}: include: {name} is of {suite.data}, and this suite of {data}")
        for member in suite.members:
            known, first = found.setdefault(member.name, (member, name))
            if known != member:
                raise UserError(f"{path}: include: the members {member.name!r} of {first} and {name} differ")
        taught_by = {member.train.distill.teacher for member in suite.taught if member.train.distill}
        teachers |= {ensemble.name: ensemble for ensemble in suite.ensembles if ensemble.name in taught_by}
    return found, teachers


def _refuse_names_of_included(path: Path, raw: dict[str, Any], included: Mapping[str, tuple[Member, str]]) -> None:
    for key in ("members", "ensembles"):
        rows = raw.get(key)
        names = [row.get("name") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        for name, (_, file) in included.items():
            if name in names:
                raise UserError(f"{path}: {key}: the name {name!r} is used twice, here and for a member of {file}")


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
    found["required"].remove("members")
    found["anyOf"] = [{"required": ["members"]}, {"required": ["include"]}]
    defaults = {key: value for key, value in found["$defs"]["Member"]["properties"].items() if key != "name"}
    sets = list(dict.fromkeys(PARAMETERS.values()))
    found["$defs"]["Ensemble"]["properties"]["parameters"] |= {"anyOf": [model.model_json_schema() for model in sets]}
    found["properties"]["defaults"] = {"type": "object", "additionalProperties": False, "properties": defaults}
    return found
