"""The checkpoints of a run: the one that it continues from, and those that it keeps."""

import re
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from train.run_folder.manifest import damage, remove

PATTERN = "checkpoint-*"
ASIDE = "unsound"
# Trainer's own, FSDP's in one file or spread, DeepSpeed's.
OPTIMIZER_STATES = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")
EVALUATION_PENDING = "evaluation_pending"
"""A file in a checkpoint that was taken while the evaluation of its step was interrupted."""


def find_checkpoint(resume: str, output_dir: str | Path) -> tuple[str | None, list[str]]:
    """Return the checkpoint to continue from, and what the user should know.

    "auto": the newest sound one of `output_dir`; newer ones that are not move to `output_dir`/unsound. "never": None.
    Otherwise the folder that `resume` names; raises UserError when it is no sound checkpoint.
    """
    if resume == "never":
        return None, []
    if resume != "auto":
        if reason := unsound(Path(resume)):
            raise UserError(f"resume: {resume} is no checkpoint to continue from: {reason}; give a checkpoint-N folder")
        return resume, []
    notices = []
    for checkpoint in reversed(checkpoints(Path(output_dir))):
        reason = unsound(checkpoint)
        if reason is None:
            return str(checkpoint), notices
        notices.append(f"{checkpoint}: {reason}; moved to {put_aside(checkpoint)}")
    return None, notices


def unsound(checkpoint: Path) -> str | None:
    """Return why training cannot go on from a checkpoint as if nothing had happened; None where it can."""
    if reason := damage(checkpoint):
        return reason
    if not any(next(checkpoint.glob(pattern), None) for pattern in OPTIMIZER_STATES):
        return "it has no optimizer state"
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint-N folders, ascending by N."""
    found = [path for path in folder.glob(PATTERN) if path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def put_aside(checkpoint: Path) -> Path:
    """Move an unsound checkpoint out of the way; it is never deleted."""
    aside = checkpoint.parent / ASIDE
    aside.mkdir(exist_ok=True)
    target = next(path for path in _names(aside / checkpoint.name) if not path.exists())
    return checkpoint.rename(target)


def _names(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}.{number}")
        number += 1


def rotate(folder: Path, limit: int | None, best: str | None) -> None:
    """Keep the newest `limit` checkpoints (None: all) and the best one."""
    if limit is None or limit <= 0:
        return
    for checkpoint in checkpoints(folder)[:-limit]:
        if best is None or checkpoint.resolve() != Path(best).resolve():
            remove(checkpoint)
