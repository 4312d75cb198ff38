"""YAML into plain values, and what pydantic found wrong with them into one line."""

import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from fer_bench.errors import UserError


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


def read_yaml(path: Path) -> Any:
    """Read a YAML file: numbers such as 1e-3 are numbers, a key that stands twice is an error with its line."""
    try:
        text = path.read_text(encoding="utf-8")
        loader = _Loader(text)
        loader.name = str(path)
        return loader.get_single_data()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the suites that come with the project are in suites/") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
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


def first_problem(error: ValidationError, model: type[BaseModel] = BaseModel) -> str:
    """Say in one line what is wrong first, with its key path; a key that ``model`` does not know gets the nearest."""
    every = error.errors(include_url=False)
    deeper = [row["loc"] for row in every]
    problems = [
        row for row in every if not any(len(d) > len(row["loc"]) and d[: len(row["loc"])] == row["loc"] for d in deeper)
    ]
    first = next((row for row in problems if row["type"] == "extra_forbidden"), problems[0])  # it explains what lacks
    place = first["loc"]
    if place and place[-1] in ("bool", "int", "float", "str"):  # one of the types that a key takes
        place = place[:-1]
    path = ".".join(map(str, place))
    message = first["msg"].removeprefix("Value error, ")
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping", message)
    message = re.sub(r"valid tuple|valid list|Tuple", "list", message).replace(" after validation", "")
    if first["type"] == "extra_forbidden":
        message = f"unknown key{_near(first['loc'], model)}"
    elif not isinstance(first["input"], dict) and first["type"] != "value_error":
        message = f"{message}, found {first['input']!r}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return (f"{path}: " if path else "") + message + more


def _near(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    import difflib

    for part in location[:-1]:
        model = _below(model, part)
    known = list(model.model_fields)
    if not known:
        return "; this method has none"
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _below(model: type[BaseModel], key: int | str) -> type[BaseModel]:
    """The model of a key, also where it is optional or a list of them; the one above for a number in a list."""
    field = model.model_fields.get(str(key))
    inner = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
