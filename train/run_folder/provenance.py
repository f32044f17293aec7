"""The origin of a checkpoint or an adapter: recipe, versions, commit, data."""

import json
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from data.media.reference import Media
from data.packing.rows import Rows
from data.progress.bars import shown
from train.run_folder.bad_media import imprint_now, noted_imprints
from train.run_folder.file_names import PROVENANCE

PACKAGES = ("reeltune", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed", "av", "pillow")


def describe_run(
    recipe: dict[str, Any],
    data: dict[str, str],
    counts: dict[str, dict[str, int]],
    world_size: int,
    start: str | None = None,
) -> dict[str, Any]:
    """Return what `write_provenance` writes; `data` has the fingerprint of each part, `counts` what is in it, `start`
    is the digest of the adapter that the run began with."""
    return {
        "recipe": recipe,
        "data": data,
        "counts": counts,
        **({"start": start} if start else {}),
        "versions": versions(PACKAGES),
        "code": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processes": world_size,
    }


def write_provenance(folder: str | Path, description: dict[str, Any], step: int, logged: Iterable[dict] = ()) -> None:
    """Write the file; of the lines that were logged, the first and the last evaluation are told."""
    found = [{"step": line["step"], "loss": line["eval_loss"]} for line in logged if "eval_loss" in line]
    told = {"step": step, "evaluations": [*found[:1], *found[1:][-1:]]}
    text = json.dumps({**description, **told}, indent=1, ensure_ascii=False)
    (Path(folder) / PROVENANCE).write_text(text + "\n", encoding="utf-8")


def fingerprint_data(train: Rows, evaluation: Rows | None, output_dir: str, fresh: bool) -> dict[str, str]:
    """Return what tells these data from others, for each part that there is.

    Files that an earlier run in output_dir noted down as bad count with their imprint of then.
    """
    noted = {} if fresh else noted_imprints(output_dir)

    def imprint_of(item: Media) -> tuple | None:
        return noted.get(item.path) or imprint_now(item)

    parts = {"train": train, "eval": evaluation}
    with shown("comparing data", is_watched=True):
        return {name: rows.fingerprint(imprint_of) for name, rows in parts.items() if rows is not None}


def count_data(train: Rows, evaluation: Rows | None) -> dict[str, dict[str, int]]:
    """Return the numbers of conversations, clips and pictures of each part, as far as they are known."""
    parts = {"train": train, "eval": evaluation}
    return {name: _counts(rows) for name, rows in parts.items() if rows is not None}


def _counts(rows: Rows) -> dict[str, int]:
    kinds = [item.kind for item in rows.media()]
    found = {"conversations": rows.num_samples(), "clips": kinds.count("video"), "pictures": kinds.count("image")}
    return {name: number for name, number in found.items() if number}


def is_same_data(before: str | None, now: str | None) -> bool:
    """Compare two fingerprints; what is not known of media now, or was not noted then, is taken as it was."""
    if before is None or now is None:
        return before == now
    (old_tokens, *old), (tokens, *new) = before.split(":"), now.split(":")
    return old_tokens == tokens and all(part in (noted, "?") for noted, part in zip(old, new, strict=False))


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> dict[str, Any] | None:
    """Return the commit of the checkout that this file is in; None outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
