"""A description of the machine and of what is installed, for reports of faults."""

import os
import platform
import shutil
import subprocess

import av
import psutil
import torch

from data.command import num_cores
from train.run_folder.provenance import PACKAGES, commit, versions

FURTHER_PACKAGES = ("torchvision", "tokenizers", "datasets", "huggingface_hub", "numpy", "flash-attn", "torchcodec")
GIB = 2**30
DRIVER_SECONDS = 20.0  # that nvidia-smi may take; it is slow while a driver loads
COMMIT_DIGITS = 12


def describe_environment() -> dict[str, str]:
    """Return a line of text for each name. Nothing in it tells who or where the user is."""
    return {
        "commit": _code(),
        **versions((*PACKAGES, *FURTHER_PACKAGES)),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, {_distribution()}",
        "processor": f"{processor_name()}, {num_cores()} of {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB, {psutil.virtual_memory().available / GIB:.1f} free",
        **_gpus(),
        "cuda of torch": torch.version.cuda or "none",
        "driver": _driver(),
        "ffmpeg": ", ".join((av.ffmpeg_version_info, *map(_library, ("libavcodec", "libavformat")))),
    }


def _library(name: str) -> str:
    return f"{name} {'.'.join(map(str, av.library_versions[name]))}"


def _code() -> str:
    code = commit()
    if code is None:
        return "unknown: this is no git checkout"
    return code["commit"][:COMMIT_DIGITS] + (" with changes" if code["changed"] else "")


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.version()


def processor_name() -> str:
    """Return the name that Linux gives; platform.processor is empty there."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpus() -> dict[str, str]:
    found = {}
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        found[f"GPU {index}"] = f"{about.name}, {about.total_memory / GIB:.1f} GiB, {about.major}.{about.minor}"
    return found or {"GPU": "none"}


def _driver() -> str:
    """Return the version of NVIDIA's driver, or why there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "none: nvidia-smi is not installed"
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DRIVER_SECONDS)
    except (OSError, subprocess.SubprocessError) as problem:
        return f"unknown: {type(problem).__name__}"
    return ", ".join(sorted(set(done.stdout.split()))) if done.returncode == 0 else "none: nvidia-smi finds none"
