"""Rules that keep the two packages importable from everywhere, and the repository free of one machine's traces."""

import ast
import re
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import TrainingArguments

ROOT = Path(__file__).parents[2]
FOLDERS = ("data", "train", "scripts", "tests")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
# What TrainingArguments and an accelerate config both name, and what is hardware.
HARDWARE = {"use_cpu", "deepspeed", "fsdp", "fsdp_config", "parallelism_config"}


def imported(path: Path) -> list[str]:
    """Full names of the modules that a file imports, those in functions and behind `if` too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    rows = re.findall(r"^\| .+ \| (`(?:data|train)/`: .+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    listed = []
    for row in rows:
        for folder, names in re.findall(r"`(data|train)/`: (.+?)(?=; `(?:data|train)/`|$)", row):
            listed += [f"{folder}/{name}.py" for name in re.findall(r"`(\w+)`", names)]
    files = [path.relative_to(ROOT).as_posix() for path in SOURCES if path.parent.name in ("data", "train")]
    assert sorted(listed) == [file for file in sorted(files) if not file.endswith("__init__.py")]


def test_data_never_imports_train():
    sources = [path for path in SOURCES if path.is_relative_to(ROOT / "data")]
    tops = {(path.name, name.split(".")[0]) for path in sources for name in imported(path)}
    assert ("encoding.py", "data") in tops
    assert [found for found in sorted(tops) if found[1] in ("train", "scripts", "tests")] == []


@pytest.mark.parametrize("package", ["data", "train"])
def test_packages_import_their_modules_by_full_name(package):
    """`from recipe import X` would work under `accelerate launch` and give every class a second identity."""
    sources = sorted((ROOT / package).glob("*.py"))
    siblings = {path.stem for path in sources}
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
    """The keys of a mapping and of those inside it, but for "auto" (DeepSpeed's "as the trainer says")."""
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
