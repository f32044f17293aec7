"""Rules that keep the two packages importable from everywhere, and the repository free of one machine's traces."""

import ast
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import TrainingArguments

ROOT = Path(__file__).parents[2]
FOLDERS = ("data", "train", "scripts", "tests")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PACKAGES = ("data", "train")
# Who may import whom, in the order in which data flow: a room imports from those above it alone.
MAY_IMPORT = {
    "data": (),
    "data.isolation": (),
    "data.progress": ("data",),
    "data.media": ("data",),
    "data.sources": ("data", "data.media"),
    "data.decoding": ("data", "data.isolation", "data.media"),
    "data.cache": ("data", "data.media"),
    "data.tokens": ("data", "data.isolation", "data.progress", "data.media", "data.sources"),
    "data.packing": ("data", "data.media", "data.sources", "data.tokens"),
    "data.batches": (
        *("data", "data.isolation", "data.media", "data.decoding", "data.cache", "data.tokens", "data.packing"),
    ),
    "data.inspection": (
        *("data", "data.isolation", "data.progress", "data.media", "data.sources", "data.decoding"),
        *("data.cache", "data.tokens", "data.packing", "data.batches"),
    ),
    "train.ranks": ("data", "data.isolation", "data.packing"),
    "train.scoring": ("data", "data.media"),
    "train.recipe": ("data", "data.media", "data.sources", "train.ranks", "train.scoring"),
    "train.model": ("data", "data.progress", "data.tokens", "data.packing", "train.ranks"),
    "train.answering": (
        *("data", "data.progress", "data.batches", "data.media", "data.tokens", "train.ranks", "train.model"),
    ),
    "train.run_folder": ("data", "data.progress", "data.media", "data.packing", "train.ranks", "train.recipe"),
    "train.preprocessing": ("data", "data.media", "train.recipe", "train.run_folder"),
    "train.loop": (
        *("data", "data.isolation", "data.progress", "data.media", "data.sources", "data.decoding", "data.cache"),
        *("data.tokens", "data.packing", "data.batches"),
        *("train.ranks", "train.recipe", "train.model", "train.run_folder"),
    ),
    "train.estimating": (
        *("data", "data.progress", "data.media", "data.cache", "data.tokens", "data.packing", "data.batches"),
        *("train.ranks", "train.recipe", "train.model", "train.loop"),
    ),
    "train.card": ("data", "data.media", "train.recipe", "train.run_folder"),
    "train.benchmarks": ("data", "data.media", "data.sources", "train.scoring"),
    "train.judging": ("data", "data.media", "train.scoring"),
    "train.results": (
        *("data", "data.media", "data.sources", "data.tokens"),
        *("train.recipe", "train.model", "train.answering", "train.preprocessing"),
        *("train.card", "train.scoring"),
    ),
    "train.merging": (
        *("data", "data.progress"),
        *("train.model", "train.card", "train.run_folder", "train.preprocessing", "train.results"),
    ),
    "train.mixing": (
        "data",
        *("train.model", "train.card", "train.preprocessing", "train.results", "train.merging"),
    ),
    "train.accuracy": (
        *("data", "data.batches", "data.media", "data.sources", "train.ranks"),
        *("train.recipe", "train.answering", "train.run_folder", "train.preprocessing", "train.loop", "train.results"),
    ),
    "train.start": (
        *(
            "data",
            "data.tokens",
            "train.ranks",
            "train.recipe",
            "train.model",
            "train.run_folder",
            "train.card",
            "train.results",
        ),
    ),
    "train.talking": (
        *("data", "data.batches", "data.decoding", "data.media", "data.sources", "data.tokens"),
        *("train.answering", "train.model", "train.results"),
    ),
    "train.serving": (
        *("data", "data.decoding", "data.media", "data.sources"),
        *("train.talking",),
    ),
    "train.page": ("data", "data.media", "data.sources", "train.serving", "train.talking"),
    "train.progress": ("data", "data.progress", "data.packing", "train.recipe", "train.run_folder"),
    "train.report": (
        *("data", "data.progress", "data.media", "data.sources", "data.decoding"),
        *("train.recipe", "train.run_folder", "train.card", "train.scoring", "train.progress"),
    ),
    "train.jobs": (
        *("data", "data.progress", "data.media", "data.sources", "data.decoding", "data.cache", "data.tokens"),
        "data.packing",
        *("data.batches", "data.inspection"),
        *("train.ranks", "train.recipe", "train.model", "train.answering", "train.run_folder", "train.loop"),
        "train.estimating",
        "train.start",
        *("train.scoring", "train.benchmarks", "train.judging", "train.results", "train.merging"),
    ),
    "train.sft": (
        *("data", "data.progress", "data.tokens", "data.batches"),
        *("train.ranks", "train.recipe", "train.model", "train.run_folder", "train.loop", "train.estimating"),
        *("train.start", "train.preprocessing", "train.card", "train.accuracy", "train.progress", "train.report"),
    ),
    "train.commands": (
        "data",
        "data.progress",
        "data.sources",
        "train.ranks",
        "train.recipe",
        "train.model",
        "train.scoring",
        "train.results",
        "train.report",
        "train.talking",
        "train.serving",
        "train.page",
        "train.merging",
        "train.mixing",
        "train.jobs",
        "train.sft",
    ),
}
CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
# What TrainingArguments and an accelerate config both name, and what is hardware.
HARDWARE = {"use_cpu", "deepspeed", "fsdp", "fsdp_config", "parallelism_config"}


@cache
def tree_of(path: Path) -> ast.Module:
    """Return what a file says, parsed once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(path: Path) -> list[str]:
    """Full names of the modules that a file imports, those in functions and behind `if` too."""
    names = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or ""))
    return names


def test_imports_are_found_everywhere_in_a_file(tmp_path):
    (tmp_path / "a.py").write_text("import os.path as p, sys\ndef f():\n    from . import b\n    from x.y import z\n")
    assert imported(tmp_path / "a.py") == ["os.path", "sys", ".", "x.y"]


def test_no_file_is_named_like_an_installed_or_standard_module():
    """`accelerate launch train/sft.py` puts train/ first on sys.path: train/datasets.py would hide `datasets`."""
    installed = {name for name, owners in packages_distributions().items() if set(owners) != {"reeltune"}}
    assert {"datasets", "peft", "torch"} <= installed
    taken = installed | sys.stdlib_module_names
    assert [str(path.relative_to(ROOT)) for path in SOURCES if path.stem in taken] == []


def test_contributors_find_every_file():
    rows = re.findall(
        r"^\| `((?:data|train)[/a-z_]*)/` \| .+? \| (`.+`) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M
    )
    listed = [f"{room}/{name}.py" for room, names in rows for name in re.findall(r"`(\w+)`", names)]
    files = [path.relative_to(ROOT).as_posix() for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES]
    assert sorted([*listed, "train/sft.py"]) == [file for file in sorted(files) if not file.endswith("__init__.py")]


def test_every_room_says_in_one_sentence_what_it_is_for():
    rooms = [path for path in SOURCES if path.name == "__init__.py" and path.parent.parent.name in PACKAGES]
    assert len(rooms) > 10
    for path in rooms:
        assert ast.get_docstring(tree_of(path)).count("\n") == 0, path


@pytest.mark.parametrize("package", ["data", "train"])
def test_a_package_is_rooms_and_few_files(package):
    assert len(list((ROOT / package).glob("*.py"))) <= 12


def test_nothing_is_too_long_to_read():
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert [(str(path), size) for path, size in sizes.items() if size > 300 and "tests" not in path.parts] == []
    functions = [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node.end_lineno - node.lineno + 1)
        for path in SOURCES
        if "tests" not in path.parts
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [found for found in functions if found[1] > 60] == []


def room_of(module: str) -> str:
    """Return the room of a module: data.sources.tables -> data.sources, data.errors -> data, train.sft -> train.sft."""
    package, *rest = module.split(".")
    return f"{package}.{rest[0]}" if rest and ((ROOT / package / rest[0]).is_dir() or package == "train") else package


def imports_between_rooms() -> dict[tuple[str, str], str]:
    """Return (importing room, imported room) -> one of the files that does so."""
    found = {}
    for path in SOURCES:
        package = path.relative_to(ROOT).parts[0]
        if package in PACKAGES:
            own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
            others = {room_of(name) for name in imported(path) if name.split(".")[0] in FOLDERS}
            found |= {(own, other): str(path.relative_to(ROOT)) for other in others - {own}}
    return found


def test_rooms_import_as_the_table_says():
    found = imports_between_rooms()
    assert {pair: file for pair, file in found.items() if pair[1] not in MAY_IMPORT.get(pair[0], ())} == {}
    allowed = {(room, other) for room, others in MAY_IMPORT.items() for other in others}
    assert allowed - set(found) == set(), "lines of the table that nothing needs"


def test_the_table_of_rooms_has_one_direction():
    rooms = list(MAY_IMPORT)
    backwards = [
        (room, other) for room in rooms for other in MAY_IMPORT[room] if rooms.index(other) >= rooms.index(room)
    ]
    assert backwards == []
    assert not any(other.startswith("train") for room in rooms if room.startswith("data") for other in MAY_IMPORT[room])


def test_the_picture_of_the_rooms_shows_the_table():
    """When this fails: python scripts/draw_rooms.py"""
    drawing = runpy.run_path(str(ROOT / "scripts" / "draw_rooms.py"))
    assert drawing["PICTURE"].read_text(encoding="utf-8") == drawing["rooms_svg"](MAY_IMPORT)
    assert f"({drawing['PICTURE'].relative_to(ROOT)})" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_files_of_a_room_import_each_other_in_one_direction():
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): {name for name in imported(path)}
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] in PACKAGES
    }
    TopologicalSorter({name: others & graph.keys() for name, others in graph.items()}).prepare()  # CycleError


@pytest.mark.parametrize("package", ["data", "train"])
def test_packages_import_their_modules_by_full_name(package):
    """`from recipe import X` would work under `accelerate launch` and give every class a second identity."""
    sources = sorted((ROOT / package).rglob("*.py"))
    siblings = {path.stem for path in sources} | {path.parent.name for path in sources} - {package}
    names = [(path.name, name) for path in sources for name in imported(path)]
    assert [found for found in names if found[1].split(".")[0] in siblings or found[1].startswith(".")] == []


def test_the_accelerate_configs_are_found():
    assert {"cpu", "single_gpu", "multi_gpu"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_configs_hold_hardware_and_no_hyper_parameter(path):
    config = load_config_from_file(str(path))  # accelerate refuses keys that it does not know
    assert config.mixed_precision == "no"  # model.dtype decides
    of_recipes = {field.name for field in fields(TrainingArguments)} - HARDWARE
    assert keys_of(yaml.safe_load(path.read_text(encoding="utf-8"))) & of_recipes == set()


def keys_of(value) -> set[str]:
    """Return the keys of a mapping and of those inside it, but for "auto" (DeepSpeed's "as the trainer says")."""
    if not isinstance(value, dict):
        return set()
    inner = [keys_of(item) for item in value.values()]
    return {key for key, item in value.items() if item not in (None, "auto")}.union(*inner)


def test_no_file_names_a_place_on_the_author_s_machine():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    # Tests and documents may make up /home/me; of binary files everything that could be a path is looked at too.
    local = re.compile(rb"(?<![\w./-])/(?:home/(?!me\b)|root/|work/|Users/(?!me\b))[\w.]")
    files = [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    assert ROOT / "pyproject.toml" in files
    found = [(path.name, match[0]) for path in files for match in local.finditer(path.read_bytes())]
    assert found == []
