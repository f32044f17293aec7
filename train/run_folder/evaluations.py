"""output_dir/evaluations/STEP: the answers of each source and their scores, complete or absent."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError, with_way_out
from data.files import UNFINISHED, remove_if_killed, unfinished_path, whole_folder

EVALUATIONS = "evaluations"
SCORES = "scores.json"


def write_evaluation(
    output_dir: str | Path, step: int, answers: Mapping[str, Sequence[dict]], scores: Mapping[str, Any]
) -> Path:
    """Write SOURCE.jsonl for each source, and scores.json. Raises UserError where the disk refuses it."""
    folder = Path(output_dir, EVALUATIONS, str(step))
    try:
        _remove(folder)
        with whole_folder(folder) as unfinished:
            for source, records in answers.items():
                lines = "".join(json.dumps(record) + "\n" for record in records)
                (unfinished / f"{source}.jsonl").write_text(lines, encoding="utf-8")
            (unfinished / SCORES).write_text(json.dumps({**scores, "step": step}, indent=2) + "\n", encoding="utf-8")
    except OSError as problem:
        raise UserError(f"cannot write {folder}: {with_way_out(problem)}, and give the same command again") from problem
    return folder


def keep_evaluations_until(output_dir: str | Path, step: int) -> None:
    """Remove the evaluations of later steps, which will come again, and what a killed process has begun."""
    parent = Path(output_dir, EVALUATIONS)
    for folder in evaluations(output_dir):
        if int(folder.name) > step:
            _remove(folder)
    for left in parent.glob(f".*{UNFINISHED}"):
        remove_if_killed(left)


def evaluations(output_dir: str | Path) -> list[Path]:
    """Return the folders of the evaluations that there are, ascending by step."""
    found = [path for path in Path(output_dir, EVALUATIONS).glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def _remove(folder: Path) -> None:
    """Remove a folder so that no half of it is ever taken for the whole."""
    if folder.exists():
        shutil.rmtree(folder.rename(unfinished_path(folder)))
