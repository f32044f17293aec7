"""Where a checkpoint or an adapter comes from: recipe, versions, commit, data."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from data.encoding import Sample

PROVENANCE = "provenance.json"
PACKAGES = ("reeltune", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed", "av", "pillow")


def describe_run(recipe: dict, data: dict[str, str], world_size: int) -> dict:
    """What `write_provenance` writes; `data` has the fingerprint of each part."""
    return {
        "recipe": recipe,
        "data": data,
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "code": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processes": world_size,
    }


def write_provenance(folder: str | Path, description: dict, step: int) -> None:
    text = json.dumps({**description, "step": step}, indent=1, ensure_ascii=False)
    (Path(folder) / PROVENANCE).write_text(text + "\n", encoding="utf-8")


def fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256 over the tokens, trained spans and media of all samples in their order: what `rows` are made of.

    Of media files it takes name and size; where they lie and when they were written does not matter.
    """
    digest, sizes = hashlib.sha256(), {}
    for sample in samples:
        for item in sample.media:
            if item.path not in sizes:
                sizes[item.path] = Path(item.path).stat().st_size
        media = [(item.kind, Path(item.path).name, sizes[item.path], item.start, item.end) for item in sample.media]
        digest.update(sample.input_ids.tobytes())
        digest.update(repr((sample.trained, media)).encode())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> dict | None:
    """Of the checkout that this file is in; None outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
