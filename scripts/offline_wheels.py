"""Fetch the wheels that a GPU machine without a network lacks, for `scripts/check_gpu.sh --wheels FOLDER`.

    python scripts/offline_wheels.py FOLDER [--python 3.12] [--cuda 130] [--packages NAME ...]

The machine is taken to have PyTorch, transformers and the other packages of EXPECTED. Of bitsandbytes' libraries, one
for each version of CUDA, the machine's alone is kept: the folder is then 45 MB and not 85.
"""

import argparse
import csv
import io
import subprocess
import sys
import zipfile
from pathlib import Path

from data.command import run_command
from data.errors import UserError

# What images with PyTorch and transformers lack, and what these need in turn.
PACKAGES = (
    *("av", "bitsandbytes", "datasets", "dill", "multiprocess"),
    *("pydantic", "pydantic-core", "typing-inspection", "annotated-types"),
    *("hypothesis", "sortedcontainers", "pytest-xdist", "execnet"),  # of the tests
)
# What they are taken to have, each as new as pyproject.toml asks: name with --packages what yours lacks.
EXPECTED = (
    *("torch", "torchvision", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "huggingface-hub"),
    *("numpy", "pandas", "pyarrow", "xxhash", "pillow", "sentencepiece", "matplotlib", "tensorboard", "pytest"),
    *("filelock", "jinja2", "psutil", "pyyaml", "rich", "tqdm", "typer", "typing-extensions"),
)
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
GLIBC_MINORS = (28, 27, 24, 17)  # of manylinux tags; pip matches each exactly
LIBRARY = "libbitsandbytes_"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="must be new or empty: two versions of a package stop the install")
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--cuda", default="130", help="of its PyTorch, without the dot")
    parser.add_argument("--packages", nargs="+", default=PACKAGES)
    arguments = parser.parse_args()
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        raise UserError(f"{arguments.folder}: not empty; choose a new folder")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    status = subprocess.run(download_command(arguments.folder, arguments.python, arguments.packages)).returncode
    if status:
        raise UserError(f"pip could not fetch the wheels (status {status}); its message is above")
    for wheel in arguments.folder.glob("bitsandbytes-*.whl"):
        keep_one_library(wheel, arguments.cuda)
    total = sum(wheel.stat().st_size for wheel in arguments.folder.iterdir())
    print(f"{arguments.folder}: {len(list(arguments.folder.iterdir()))} wheels, {total / 1e6:.0f} MB")


def download_command(folder: Path, python: str, packages: list[str]) -> list[str]:
    """Return pip's command line for x86-64 Linux, in the versions of constraints.txt."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC_MINORS] + ["manylinux2014_x86_64"]
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--python-version", python, "--implementation", "cp"),
        *(option for name in platforms for option in ("--platform", name)),
        *("--constraint", str(CONSTRAINTS), "--dest", str(folder), *packages),
    ]


def keep_one_library(wheel: Path, cuda: str) -> None:
    """Take all of bitsandbytes' libraries out of a wheel but those of the CPU and of one CUDA version.

    Raises UserError where there is none for it.
    """
    kept = (f"{LIBRARY}cuda{cuda}.so", f"{LIBRARY}cpu.so")
    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    libraries = {name for name in members if Path(name).name.startswith(LIBRARY)}
    if not any(name.endswith(kept[0]) for name in libraries):
        raise UserError(f"--cuda {cuda}: {wheel.name} has {', '.join(sorted(Path(name).name for name in libraries))}")
    left_out = {name for name in libraries if not name.endswith(kept)}
    slim = wheel.with_suffix(".slim")
    with zipfile.ZipFile(slim, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if name.endswith(".dist-info/RECORD"):
                content = without_records(content, left_out)
            if name not in left_out:
                archive.writestr(name, content)
    slim.replace(wheel)


def without_records(record: bytes, left_out: set[str]) -> bytes:
    """Return a RECORD file without the lines of some members."""
    lines = [line for line in csv.reader(io.StringIO(record.decode())) if line and line[0] not in left_out]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


if __name__ == "__main__":
    run_command(main)
