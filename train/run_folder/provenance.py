"""Where a checkpoint or an adapter comes from: recipe, versions, commit, data."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from data.media.reference import Media
from data.tokens.encoding import Sample
from train.run_folder.bad_media import size_now

PROVENANCE = "provenance.json"
PACKAGES = ("reeltune", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed", "av", "pillow")


def describe_run(recipe: dict[str, Any], data: dict[str, str], world_size: int) -> dict[str, Any]:
    """Return what `write_provenance` writes; `data` has the fingerprint of each part."""
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


def write_provenance(folder: str | Path, description: dict[str, Any], step: int) -> None:
    text = json.dumps({**description, "step": step}, indent=1, ensure_ascii=False)
    (Path(folder) / PROVENANCE).write_text(text + "\n", encoding="utf-8")


def fingerprint(samples: Iterable[Sample], noted: Mapping[str, int] | None = None) -> str:
    """Return a digest of the tokens, trained spans and media of all samples in their order, of which rows are made.

    Media count by name, and behind a colon comes a digest of their sizes, "?" where a file is missing; where they lie
    and when they were written does not matter. noted: sizes to take instead of today's.
    """
    tokens, sizes, all_known = hashlib.sha256(), hashlib.sha256(), True
    known_sizes = noted or {}

    @lru_cache(2**10)  # questions about one clip often follow one another; a table of millions would weigh too much
    def size_of(whole: Media) -> int | tuple | None:
        return known_sizes.get(whole.path, size_now(whole))

    for sample in samples:
        media = [(item.kind, Path(item.path).name, item.start, item.end) for item in sample.media]
        for item in sample.media:
            size = size_of(Media(item.kind, item.path, place=item.place))
            all_known = all_known and size is not None
            sizes.update(repr(size).encode())
        tokens.update(sample.input_ids.tobytes())
        tokens.update(repr((sample.trained, media)).encode())
    return f"{tokens.hexdigest()}:{sizes.hexdigest() if all_known else '?'}"


def is_same_data(before: str | None, now: str | None) -> bool:
    """Compare two fingerprints; sizes that are not known now are taken as they were."""
    if before is None or now is None:
        return before == now
    return before == now or (now.endswith(":?") and before.partition(":")[0] == now.partition(":")[0])


def fingerprint_files(files: Sequence[tuple[str, int]]) -> str:
    """Return a digest of the names and sizes in bytes of data files that are too large to be read ahead."""
    return hashlib.sha256(repr([(Path(name).name, size) for name, size in files]).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> dict[str, Any] | None:
    """Return the commit of the checkout that this file is in; None outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
