"""Everything that the packages and the scripts import is declared in pyproject.toml."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FOLDERS = ("data", "train", "scripts")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normalized(name: str) -> str:
    """Normalise a distribution's name as PEP 503 says."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names_of(requirements: list[str]) -> set[str]:
    return {normalized(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def imported_packages(source: str) -> set[str]:
    """Top-level names of all imports, but those that have an `except ImportError` beside them."""
    tree = ast.parse(source)
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        and any(isinstance(handler.type, ast.Name) and handler.type.id == "ImportError" for handler in node.handlers)
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if node in guarded:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def undeclared(names: set[str], declared: set[str]) -> set[str]:
    """Return the modules that neither Python, nor this project, nor a declared distribution has."""
    others = names - sys.stdlib_module_names - {*FOLDERS, "tests"}
    return {name for name in others if not (owners().get(name) or {normalized(name)}) & declared}


@cache
def owners() -> dict[str, set[str]]:
    """Return module -> distributions; reading all their lists of files takes a second."""
    return {module: set(map(normalized, found)) for module, found in packages_distributions().items()}


def test_imports_are_found_in_functions_and_not_behind_a_guard():
    source = """
import os.path
def f():
    from yaml.a import b
try:
    import x
except ImportError:
    import y
"""
    assert imported_packages(source) == {"os", "yaml"}
    assert undeclared({"os", "yaml", "torch", "data"}, {"pyyaml"}) == {"torch"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_everything_that_is_imported_is_declared(folder):
    extras = PROJECT["optional-dependencies"]
    optional = names_of(
        [one for group, all_ in PROJECT["optional-dependencies"].items() if group != "dev" for one in all_]
    )
    declared = names_of(PROJECT["dependencies"]) | optional
    names = {path: imported_packages(path.read_text(encoding="utf-8")) for path in (ROOT / folder).rglob("*.py")}
    assert "torch" in set().union(*names.values())
    for path, found in names.items():
        # Pictures of the documents are drawn by those who change them, with what `make lint` has installed.
        is_for_developers = path.name.startswith("draw_")
        allowed = declared | names_of(extras["dev"]) if is_for_developers else declared
        assert undeclared(found, allowed) == set(), path
        assert is_for_developers or "tests" not in found, path


def test_every_dependency_has_a_tested_version():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = names_of([line for line in lines if "==" in line])
    assert names_of(PROJECT["dependencies"]) <= pinned


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds():
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = {normalized(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    extras = PROJECT["optional-dependencies"]
    others = [one for extra in extras.keys() - {"dev", "flash-attn"} for one in extras[extra]]  # the last needs nvcc
    for requirement in map(Requirement, PROJECT["dependencies"] + others):
        bound = next(each.version for each in requirement.specifier if each.operator == ">=")
        assert Version(oldest[normalized(requirement.name)]) == Version(bound), requirement
