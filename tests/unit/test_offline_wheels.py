"""The wheels for a machine without a network: what pip is asked for, and what is taken out of bitsandbytes."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

from data.errors import UserError
from scripts.offline_wheels import EXPECTED, PACKAGES, download_command, keep_one_library

LIBRARIES = ("cpu", "cuda126", "cuda130", "rocm72")


@pytest.fixture
def wheel(tmp_path):
    """A small bitsandbytes, which pip can install."""
    path = tmp_path / "bitsandbytes-1.0-py3-none-any.whl"
    files = {f"bitsandbytes/libbitsandbytes_{name}.so": name for name in LIBRARIES}
    files |= {"bitsandbytes/__init__.py": "", "bitsandbytes-1.0.dist-info/METADATA": "Name: bitsandbytes\nVersion: 1.0"}
    files["bitsandbytes-1.0.dist-info/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "bitsandbytes-1.0.dist-info/RECORD"
    files[record] = "".join(f"{name},,\n" for name in [*files, record])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_one_library_is_kept_and_pip_installs_the_rest(wheel, tmp_path):
    keep_one_library(wheel, "130")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
    subprocess.run([*install, tmp_path / "site", wheel], check=True)
    installed = {path.name for path in (tmp_path / "site" / "bitsandbytes").iterdir()} - {"__pycache__"}
    assert installed == {"__init__.py", "libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so"}
    record = (tmp_path / "site" / "bitsandbytes-1.0.dist-info" / "RECORD").read_text()
    assert "cuda126" not in record and "rocm72" not in record and "cuda130" in record
    assert [path.name for path in tmp_path.glob("*.slim")] == []


def test_a_version_of_cuda_that_is_not_there(wheel):
    before = wheel.read_bytes()
    with pytest.raises(UserError, match="--cuda 999: .* has libbitsandbytes_cpu.so, libbitsandbytes_cuda126.so"):
        keep_one_library(wheel, "999")
    assert wheel.read_bytes() == before


def test_pip_is_asked_for_another_python_in_tested_versions(tmp_path):
    command = download_command(tmp_path, "3.13", list(PACKAGES))
    assert command[command.index("--python-version") + 1] == "3.13"
    assert {"manylinux_2_28_x86_64", "manylinux2014_x86_64"} <= set(command)
    assert command[command.index("--constraint") + 1].endswith("constraints.txt")
    assert command[-len(PACKAGES) :] == list(PACKAGES)


def test_everything_that_the_project_needs_is_fetched_or_expected():
    """And all that the fetched packages need in turn, which pip is told not to fetch by itself."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *(one for name in PACKAGES for one in requires(name) or ())]
    found = {re.match(r"[\w.-]+", one)[0].lower().replace("_", "-") for one in needed if "extra ==" not in one}
    theirs = {"packaging", "fsspec"}  # transformers and torch bring them
    theirs |= {"httpx", "requests"}  # of datasets before 5.2
    assert found - theirs <= {*PACKAGES, *EXPECTED}
