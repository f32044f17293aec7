"""output_dir/left_out.json: the conversations that a run does not train or evaluate on, in the words of its log."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.errors import UserError, with_way_out
from data.files import write_whole
from train.run_folder.file_names import LEFT_OUT_FILE


def write_left_out(output_dir: str | Path, notices: Mapping[str, Sequence[str]]) -> None:
    """Write the notices on each part of the data; an earlier run's file goes where there are none."""
    path = Path(output_dir) / LEFT_OUT_FILE
    told = {part: list(lines) for part, lines in notices.items() if lines}
    try:
        if told:
            write_whole(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        else:
            path.unlink(missing_ok=True)
    except OSError as problem:
        raise UserError(f"training.output_dir: cannot write {path}: {with_way_out(problem)}") from problem
