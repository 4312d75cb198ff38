import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fer_bench

PACKAGE = Path(fer_bench.__file__).parent
# fmt: off
ORDER = [
    "errors", "allocation", "files", "views", "config", "data", "toyfaces", "twins", "splits", "audit", "augment",
    "models", "train", "predict", "records", "metrics", "ensemble", "diagnosis", "tune", "leaderboard", "submit",
    "compare", "pack", "suite", "cli",
]
# fmt: on
NEEDS_TORCH = {"augment", "models", "train", "predict", "suite", "cli"}
TORCH_FREE = [module for module in ORDER if module not in NEEDS_TORCH]
TORCH = {"torch", "torchvision", "timm", "ray"}
HEAVY = TORCH | {"numpy", "pandas", "sklearn", "scipy", "matplotlib", "optuna", "sqlalchemy"}
LAZY = HEAVY - {"numpy"}  # the torch-free modules import these inside the functions that need them


def sources() -> dict[str, list[Path]]:
    """Return the files of each module; a package counts as one module."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if module not in ("__init__", "__main__"):
            found.setdefault(module, []).append(path)
    return found


def imported(path: Path, nodes: Iterator[ast.AST] | None = None) -> set[str]:
    """Return the dotted names that a file imports anywhere, or in ``nodes`` only; relative ones in full."""
    here = ("fer_bench", *path.relative_to(PACKAGE).parent.parts)
    names: set[str] = set()
    for node in nodes or ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def on_import(path: Path) -> set[str]:
    """Return the dotted names that a file imports when it is itself imported: not in functions, not for types alone."""

    def later(node: ast.AST) -> bool:
        types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)

    def outside(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not later(child):
                yield child
                yield from outside(child)

    return imported(path, outside(ast.parse(path.read_text())))


def siblings(module: str) -> set[str]:
    """Return the modules of the package that a module imports, itself left out."""
    names = {name for path in sources()[module] for name in imported(path) if name.startswith("fer_bench.")}
    return {name.split(".")[1] for name in names} - {module, "__version__"}


MODULES = sorted(sources())


def test_every_module_has_a_place():
    assert set(MODULES) <= set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_those_above(module):
    assert siblings(module) <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("module", [module for module in TORCH_FREE if module in MODULES])
def test_torch_free(module):
    tops = {name.split(".")[0] for path in sources()[module] for name in imported(path)}
    assert not tops & TORCH
    assert siblings(module) <= set(TORCH_FREE)


@pytest.mark.parametrize("module", [module for module in TORCH_FREE if module in MODULES])
def test_heavy_imports_wait_inside_functions(module):
    tops = {name.split(".")[0] for path in sources()[module] for name in on_import(path)}
    assert not tops & LAZY


def test_help_imports_nothing_heavy():
    code = "import fer_bench.cli, sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in result.stdout.split()} & HEAVY


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import fer_bench.data.faces as f", {"fer_bench.data.faces"}),
        ("from fer_bench import data, errors", {"fer_bench.data", "fer_bench.errors"}),
        ("def f():\n    from . import cli", {"fer_bench.cli"}),
        ("from .files import sha256_file", {"fer_bench.files.sha256_file"}),
    ],
)
def test_finds_imports_in_every_form(monkeypatch, tmp_path, text, expected):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "module.py").write_text(text)
    assert imported(tmp_path / "module.py") == expected


def test_finds_relative_imports_of_a_package(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "faces.py").write_text("from ..errors import UserError\nfrom .cache import read")
    assert imported(tmp_path / "data" / "faces.py") == {"fer_bench.errors.UserError", "fer_bench.data.cache.read"}
