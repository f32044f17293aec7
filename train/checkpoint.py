"""Where a run continues."""

from pathlib import Path

from data.errors import UserError

# Trainer writes it last; a checkpoint without it is half-written.
LAST_FILE = "trainer_state.json"


def find_checkpoint(resume: str, output_dir: str | Path) -> str | None:
    """The checkpoint to continue from: for "auto" the newest complete one of `output_dir`, for "never" None,
    else the folder that `resume` names. Raises UserError when that is no checkpoint."""
    if resume == "never":
        return None
    if resume != "auto":
        if not (Path(resume) / LAST_FILE).is_file():
            raise UserError(f"resume: {resume} is no checkpoint (it has no {LAST_FILE}); give a checkpoint-N folder")
        return resume
    complete = [path.parent for path in Path(output_dir).glob(f"checkpoint-*/{LAST_FILE}")]
    return max(map(str, complete), key=lambda path: int(path.rsplit("-", 1)[1]), default=None)
