"""transformers.Trainer with checkpoints that are complete or absent, and an end that loses nothing."""

import shutil
import time
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer_utils import IntervalStrategy

from data.errors import UserError
from data.files import flush
from train.loop.interruption import EvaluationInterrupted, Interruption
from train.ranks.agreement import all_or_none, on_first_rank
from train.run_folder.checkpoint import EVALUATION_PENDING, checkpoints, put_aside, rotate, step_of
from train.run_folder.manifest import damage, publish, seal, unfinished
from train.run_folder.provenance import write_provenance

RESULT = "result"  # written as result.unfinished, then file by file into output_dir


class Finished(Exception):
    """A resumed run has no step left to train."""


class SavingTrainer(Trainer):
    """description: of the run, see `train.run_folder.provenance`; it goes into every checkpoint and the final folder.
    early_stopping_patience: evaluations without a better metric after which training ends."""

    def __init__(self, *args, description: dict | None = None, early_stopping_patience: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.description = description or {}
        if early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(early_stopping_patience))
        self.interruption = Interruption(self.before_first_step)
        self.add_callback(self.interruption)
        self.save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None  # rotation is ours
        self._writing_into: Path | None = None
        self._evaluated_step = -1
        self.saving_seconds = 0.0  # since whoever reads it has set it back

    @property
    def output_dir(self) -> Path:
        return Path(self.args.output_dir)

    @property
    def was_interrupted(self) -> bool:
        return self.interruption.signal is not None and self.state.global_step < self.state.max_steps

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """A signal leaves a checkpoint of the last step behind it, one in an evaluation too."""
        self._evaluation_owed = (
            resume_from_checkpoint is not None and Path(resume_from_checkpoint, EVALUATION_PENDING).exists()
        )
        try:
            return super().train(resume_from_checkpoint, **kwargs)
        except EvaluationInterrupted:
            if not self._evaluation_owed:  # else the checkpoint is the one that this run continues from
                self._save_checkpoint(self.model, None)
        except Finished:
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
                self._load_best_model()
        finally:
            self.interruption.restore()

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Leaves the random numbers of training alone, so that it does not matter whether it ran to its end."""
        with torch.random.fork_rng(devices=[self.args.device] if self.args.device.type == "cuda" else []):
            metrics = super().evaluate(*args, **kwargs)
        self._evaluated_step = self.state.global_step
        return metrics

    def before_first_step(self) -> None:
        """When everything is restored: the evaluation in which the run was interrupted; and Trainer, which would take
        another step in the middle of an epoch, does not go on with a run that had come to its end."""
        if self._evaluation_owed:
            self._determine_best_metric(self._evaluate(None, None), None)
            self._evaluation_owed = False
        if (
            self.state.global_step >= self.state.max_steps
            or self.control.should_training_stop
            or self._out_of_patience()
        ):
            raise Finished

    def _out_of_patience(self) -> bool:
        return any(
            isinstance(callback, EarlyStoppingCallback)
            and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
        )

    def _get_output_dir(self, trial) -> str:
        return str(self._writing_into or super()._get_output_dir(trial))

    def _save_checkpoint(self, model, trial) -> None:
        """Trainer's own files, written beside the final name, sealed with a manifest and renamed; then rotation."""
        started = time.perf_counter()
        name = f"checkpoint-{self.state.global_step}"
        final, stage = self.output_dir / name, unfinished(self.output_dir / name)

        def write():
            self._writing_into = stage
            try:
                super(SavingTrainer, self)._save_checkpoint(model, trial)
            finally:
                self._writing_into = None

        def finish():
            if not self.args.should_save:
                return
            written = stage / name
            if self.state.best_global_step and self.state.best_metric is not None:
                best = self.output_dir / f"checkpoint-{self.state.best_global_step}"
                self.state.best_model_checkpoint = str(best) if best == final or best.exists() else None
            self.state.save_to_json(str(written / "trainer_state.json"))
            write_provenance(written, self.description, self.state.global_step)
            if self._owes_evaluation():
                (written / EVALUATION_PENDING).touch()
            seal(written)
            publish(written, final)
            stage.rmdir()
            rotate(self.output_dir, self.save_total_limit, self.state.best_model_checkpoint)

        self._all_write(f"checkpoint-{self.state.global_step}", stage, write, finish)
        self.saving_seconds += time.perf_counter() - started
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(final))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Trainer calls it with the unfinished folder; `_save_checkpoint` does with the final one."""

    def _owes_evaluation(self) -> bool:
        """An evaluation of this very step is due, and has not come to its end."""
        if self.eval_dataset is None or self._evaluated_step == self.state.global_step:
            return False
        at_epoch_end = self.args.eval_strategy == IntervalStrategy.EPOCH and self.state.epoch % 1 == 0
        return at_epoch_end or self.control.should_evaluate

    def save_result(self) -> None:
        """The adapter, or the whole model, with the processor, into output_dir: each file complete or absent, the
        weights last."""
        stage = unfinished(self.output_dir / RESULT)

        def write():
            self.save_model(str(stage), _internal_call=True)

        def finish():
            if not self.args.should_save:
                return
            write_provenance(stage, self.description, self.state.global_step)
            files = sorted(stage.iterdir(), key=lambda path: path.name.endswith(".safetensors"))
            for path in files:
                flush(path)
                path.replace(self.output_dir / path.name)
            flush(self.output_dir)
            stage.rmdir()

        self._all_write("the result", stage, write, finish)
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _all_write(self, what: str, stage: Path, *parts) -> None:
        """ALL RANKS: each part is done by all before the next begins; a refused write stops every rank, and leaves
        nothing behind."""
        for part in parts:
            if problem := all_or_none(part):
                free = shutil.disk_usage(self.output_dir).free / 2**20  # torch's own error does not say "disk full"
                if self.args.should_save:
                    shutil.rmtree(stage, ignore_errors=True)
                last = max(checkpoints(self.output_dir), key=step_of, default=None)
                keeps = f"{last} is complete" if last else "there is no earlier checkpoint"
                raise UserError(
                    f"cannot write {what} into {self.output_dir} ({free:.1f} MiB free): {problem}. Training stopped "
                    f"after step {self.state.global_step}; {keeps}: make room and give the same command again"
                )

    def _load_best_model(self) -> None:
        """transformers', after a look at every byte."""
        on_first_rank(check_best, Path(self.state.best_model_checkpoint))
        super()._load_best_model()


def check_best(best: Path) -> None:
    if reason := damage(best):
        raise UserError(
            f"the best checkpoint, {best}, is unsound: {reason}; moved to {put_aside(best)}. The same command again "
            "takes the last checkpoint as the result"
        )
