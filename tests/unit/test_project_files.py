"""The files that hosts and tools read agree with one another: citation, changes, issue templates, Dockerfile."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.documents import PAGES, ROOT
from train.commands.app import COMMANDS, name_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_citation_is_that_of_this_version():
    assert CITATION["version"] == PROJECT["version"] and CITATION["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()  # what the format needs


def test_the_changes_begin_with_this_version():
    assert re.search(r"^## (\S+),", PAGES["CHANGELOG.md"], re.MULTILINE)[1] == PROJECT["version"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issue_templates_are_forms_that_name_what_exists(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form["name"] and form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) > 1 and all(field["attributes"]["label"] for field in form["body"])
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(\.\./blob/main/([^)]+)\)", text):
        assert (ROOT / link).is_file(), link
    for command in re.findall(r"`((?:python|accelerate|git|make|reeltune) [^`]+)`", text):
        check_command(command)


def check_command(command: str) -> None:
    program, *words = command.split()
    if program == "make":
        assert subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True).returncode == 0, command
    elif program in PROJECT["scripts"]:
        assert words[0] in set(map(name_of, COMMANDS)), command
    elif program == "python" and words[0] != "-m":
        assert (ROOT / words[0]).is_file(), command
    else:
        assert shutil.which(program, path=f"{Path(sys.executable).parent}:/usr/bin:/bin"), command


def test_the_bug_form_asks_for_versions():
    assert "`reeltune env`" in (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text(encoding="utf-8")


def test_the_image_installs_what_the_makefile_installs():
    runs = re.findall(r"^RUN (.+)$", DOCKERFILE.replace("\\\n", " "), re.MULTILINE)
    assert runs[-1] == "make install" and not any("pip" in run for run in runs)
    dry = subprocess.run(["make", "-n", "-B", "install"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pip install" in dry and "-c constraints.txt -e ." in dry
    system_packages = runs[0].split()
    assert {"make", "python3", "python3-venv"} <= set(system_packages)  # the Makefile calls them


def test_the_image_has_the_cuda_of_torch_s_wheels():
    image = re.search(r"^FROM nvidia/cuda:(\d+\.\d+)\.\d+-", DOCKERFILE, re.MULTILINE)[1]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^nvidia-cuda-runtime==(\d+\.\d+)\.", constraints, re.MULTILINE)[1] == image
