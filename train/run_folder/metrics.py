"""output_dir/metrics.jsonl: one object a logged step, for programs; TensorBoard has the same figures for people."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.errors import UserError, with_way_out
from data.files import write_whole
from train.run_folder.evaluations import keep_evaluations_until
from train.run_folder.file_names import METRICS_FILE


def keep_lines_until(path: Path, step: int) -> int:
    """Drop the lines of later steps, and one that a killed process left half-written. Returns how many are left."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    write_whole(path, "".join(line + "\n" for line in kept))
    return len(kept)


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Append a JSON object. Raises UserError when the disk refuses it."""
    try:
        with open(path, "a") as file:
            file.write(json.dumps(values) + "\n")
    except OSError as problem:
        raise UserError(f"cannot write {path}: {with_way_out(problem)}, and give the same command again") from problem


class MetricsFile(TrainerCallback):
    """A file of every log line. A resumed run goes on behind its checkpoint's step: later lines and evaluations are
    dropped."""

    def __init__(self, output_dir: str | Path):
        self.path = Path(output_dir) / METRICS_FILE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            step = state.global_step or -1  # before the first step everything comes anew
            keep_lines_until(self.path, step)
            keep_evaluations_until(self.path.parent, step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            append_line(self.path, {"step": state.global_step, **(logs or {})})
