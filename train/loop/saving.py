"""Checkpoints and the result of a run: written beside their final place, each complete or absent."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerState

from data.errors import UserError
from data.files import flush
from data.progress.bars import shown
from train.ranks.agreement import all_or_none
from train.run_folder.checkpoint import EVALUATION_PENDING, checkpoints, put_aside, rotate, step_of
from train.run_folder.manifest import damage, publish, seal, unfinished
from train.run_folder.provenance import write_provenance

RESULT = "result"  # written as result.unfinished, then file by file into output_dir
STATE_FILE = "trainer_state.json"
MIB = 2**20


class Saver:
    """Writes what a run leaves in `output_dir`; all ranks have one.

    description: of the run, see `train.run_folder.provenance`; it goes into every checkpoint and the final folder.
    limit: how many checkpoints are kept, None for all. is_writer: whether this rank writes what ranks have in common.
    keep_fingerprint: called by the writer with the folder of every checkpoint and of the result, its weights in place.
    """

    def __init__(
        self,
        output_dir: Path,
        description: dict[str, Any],
        limit: int | None,
        is_writer: bool,
        keep_fingerprint: Callable[[Path], None],
    ):
        self.output_dir, self.description, self.limit, self.is_writer = output_dir, description, limit, is_writer
        self.keep_fingerprint = keep_fingerprint
        self.seconds = 0.0  # spent on checkpoints since whoever reads it has set it back

    def save_checkpoint(self, state: TrainerState, write: Callable[[Path], None], owes_evaluation: bool) -> None:
        """Write a checkpoint, seal it with a manifest, rename it into place, and delete the oldest. ALL RANKS.

        write: writes the folder checkpoint-N into the folder that it is given.
        """
        started = time.perf_counter()
        name = f"checkpoint-{state.global_step}"
        final, stage = self.output_dir / name, unfinished(self.output_dir / name)

        def finish() -> None:
            if not self.is_writer:
                return
            written = stage / name
            if state.best_global_step and state.best_metric is not None:
                best = self.output_dir / f"checkpoint-{state.best_global_step}"
                state.best_model_checkpoint = str(best) if best == final or best.exists() else None
            state.save_to_json(str(written / STATE_FILE))
            write_provenance(written, self.description, state.global_step, state.log_history)
            self.keep_fingerprint(written)
            if owes_evaluation:
                (written / EVALUATION_PENDING).touch()
            seal(written)
            publish(written, final)
            stage.rmdir()
            rotate(self.output_dir, self.limit, state.best_model_checkpoint)

        self._write_all(name, state.global_step, stage, lambda: write(stage), finish)
        self.seconds += time.perf_counter() - started

    def save_result(self, state: TrainerState, write: Callable[[Path], None]) -> None:
        """Write the result into output_dir, the weights last. ALL RANKS. write: fills the folder that it is given."""
        stage = unfinished(self.output_dir / RESULT)

        def finish() -> None:
            if not self.is_writer:
                return
            write_provenance(stage, self.description, state.global_step, state.log_history)
            self.keep_fingerprint(stage)
            for path in sorted(stage.iterdir(), key=lambda path: path.name.endswith(".safetensors")):
                flush(path)
                path.replace(self.output_dir / path.name)
            flush(self.output_dir)
            stage.rmdir()

        self._write_all("the result", state.global_step, stage, lambda: write(stage), finish)

    def _write_all(self, what: str, step: int, stage: Path, *parts: Callable[[], None]) -> None:
        """Do each part on all ranks before the next begins. ALL RANKS.

        A write that the disk refuses to one rank is a UserError on all of them, and leaves nothing behind.
        """
        for part in parts:
            with shown(f"saving {what}", is_watched=True):
                problem = all_or_none(part)
            if problem:
                free = shutil.disk_usage(self.output_dir).free / MIB  # torch's own error does not say "disk full"
                if self.is_writer:
                    shutil.rmtree(stage, ignore_errors=True)
                last = max(checkpoints(self.output_dir), key=step_of, default=None)
                keeps = f"{last} is complete" if last else "there is no earlier checkpoint"
                raise UserError(
                    f"cannot write {what} into {self.output_dir} ({free:.1f} MiB free): {problem}. Training stopped "
                    f"after step {step}; {keeps}: the same command goes on"
                )


def check_best(best: Path) -> None:
    """Raise UserError, and put the checkpoint aside, where a byte of the best one has changed."""
    if reason := damage(best):
        raise UserError(
            f"the best checkpoint, {best}, is unsound: {reason}; moved to {put_aside(best)}. The same command again "
            "takes the last checkpoint as the result"
        )
