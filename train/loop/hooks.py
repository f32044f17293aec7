"""transformers.Trainer that saves whole checkpoints and goes on where a run was interrupted.

Every private method of Trainer that is overridden stands here. A new version may change them without notice:
`tests/unit/test_trainer_hooks.py` compares their parameters with those of the installed one.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    VideoLlavaForConditionalGeneration,
    VideoLlavaProcessor,
)
from transformers.integrations import MLflowCallback, TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.trainer_utils import IntervalStrategy, TrainOutput

from data.packing.divided import Part
from data.processor_files import save_processor
from train.loop.full_weights import restore_weights
from train.loop.interruption import EvaluationInterrupted, Interruption
from train.loop.saving import Saver, check_best
from train.ranks.agreement import on_first_rank
from train.ranks.processes import holds_whole_model
from train.run_folder.checkpoint import EVALUATION_PENDING

REPORTERS = (TensorBoardCallback, WandbCallback, MLflowCallback, TrackioCallback)


Losses = dict[Part, tuple[float, float]]  # the sum over labelled tokens, and their number
# Asks the held-out questions: model, step, losses, bad media, the signal that has arrived -> figures by name.
Ask = Callable[[Any, int, Losses, Mapping[str, str], Callable[[], int]], dict[str, float]]


class HookedTrainer(Trainer):
    """description: of the run, see `train.run_folder.provenance`; it goes into every checkpoint and the final folder.
    keep_fingerprint: called there with the folder and the trained model, see `train.model.fingerprint`.
    early_stopping_patience: evaluations without a better metric after which training ends.
    ask: what has the model answer in each evaluation, see `train.accuracy.exam`.
    """

    def __init__(
        self,
        *,
        args: TrainingArguments,
        description: dict[str, Any] | None = None,
        keep_fingerprint: Callable[[Path, nn.Module], None] | None = None,
        early_stopping_patience: int | None = None,
        ask: Ask | None = None,
        **kwargs: Any,
    ):
        super().__init__(args=args, **kwargs)
        self.ask = ask
        for shown in (PrinterCallback, ProgressCallback, *REPORTERS):  # `train.progress` stands in their places
            self.remove_callback(shown)
        self.output_dir = Path(str(args.output_dir))

        def keep(folder: Path) -> None:
            if keep_fingerprint is not None and self.model is not None:
                keep_fingerprint(folder, self.model)

        self.saver = Saver(self.output_dir, description or {}, args.save_total_limit, args.should_save, keep)
        args.save_total_limit = None  # rotation is the saver's
        if early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(early_stopping_patience))
        self.interruption = Interruption()
        self.add_callback(self.interruption)
        self.add_callback(Beginning(self))
        self.is_over = False  # a resumed run had come to its end
        self._owed = False  # the checkpoint was taken within the evaluation of its step
        self._evaluated_step = -1
        self._stage: Path | None = None  # where a checkpoint is being written

    @property
    def was_interrupted(self) -> bool:
        """True when a signal has ended training before its last step."""
        return self.interruption.signal is not None and self.state.global_step < self.state.max_steps

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save what transformers saves, with the processor that was trained with: it leaves some settings out."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and isinstance(self.processing_class, VideoLlavaProcessor):
            save_processor(self.processing_class, output_dir or self.output_dir)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train to the end, or until a signal, which leaves a checkpoint of the last step, in an evaluation too."""
        self._owed = (
            isinstance(resume_from_checkpoint, str) and Path(resume_from_checkpoint, EVALUATION_PENDING).exists()
        )
        self.interruption.listen()
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        except EvaluationInterrupted as left:
            self.interruption.signal = self.interruption.signal or left.signal  # it may be another rank's
            if not self._owed:  # else the checkpoint is the one that this run continues from
                assert self.model is not None
                self._save_checkpoint(self.model, None)
            return TrainOutput(self.state.global_step, math.nan, {})
        finally:
            self.interruption.restore()

    def evaluate(
        self,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate and leave the random numbers of training alone, so that it does not matter whether it came to its
        end."""
        with torch.random.fork_rng(devices=[self.args.device] if self.args.device.type == "cuda" else []):
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self._evaluated_step = self.state.global_step
        return metrics

    def begin(self, control: TrainerControl) -> None:
        """Make up for the evaluation in which the run was interrupted, and see whether there is a step left to do.

        Everything is restored by now, and no step is taken yet.
        """
        if self.state.global_step:
            self.args.eval_on_start = False  # it was made when the run began
        if self._owed:
            self._determine_best_metric(self._evaluate(None, None), None)
            self._owed = False
        no_step_left = self.state.global_step >= self.state.max_steps
        self.is_over = no_step_left or control.should_training_stop or self._is_out_of_patience()
        control.should_training_stop = self.is_over

    def save_result(self) -> None:
        """Write the adapter, or the whole model, with the processor into output_dir. ALL RANKS."""
        self.saver.save_result(self.state, lambda stage: self.save_model(str(stage), _internal_call=True))

    def _is_out_of_patience(self) -> bool:
        return any(
            isinstance(callback, EarlyStoppingCallback)
            and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
        )

    def _owes_evaluation(self) -> bool:
        """Tell whether an evaluation of this very step is due, and has not come to its end."""
        if self.eval_dataset is None or self._evaluated_step == self.state.global_step:
            return False
        at_epoch_end = self.args.eval_strategy == IntervalStrategy.EPOCH and (self.state.epoch or 0) % 1 == 0
        return at_epoch_end or self.control.should_evaluate

    # Private methods of Trainer from here on

    def _get_output_dir(self, trial: Any) -> str:
        """Return the folder in which Trainer makes checkpoint-N."""
        return str(self._stage or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Let Trainer write its own files into a folder of the saver's, which becomes the checkpoint."""

        def write(stage: Path) -> None:
            self._stage = stage
            try:
                super(HookedTrainer, self)._save_checkpoint(model, trial)
            finally:
                self._stage = None

        self.saver.save_checkpoint(self.state, write, self._owes_evaluation())

    def _load_best_model(self) -> None:
        """Load the best checkpoint after a look at every byte."""
        on_first_rank(check_best, Path(str(self.state.best_model_checkpoint)))
        super()._load_best_model()
        self._restore_whole(str(self.state.best_model_checkpoint), self.model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights to train on with; of a model that is trained in full they are put back one by one."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._restore_whole(resume_from_checkpoint, model or self.model)

    def _restore_whole(self, checkpoint: str, model: nn.Module | None) -> None:
        if isinstance(model, VideoLlavaForConditionalGeneration) and holds_whole_model():
            restore_weights(model, checkpoint)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Run an epoch. Trainer would take another step, in the middle of one, of a run that had come to its end."""
        if not self.is_over:
            super()._run_epoch(*args, **kwargs)


class Beginning(TrainerCallback):
    """Calls the trainer's `begin` when everything is restored and no step is taken, and sees to the last step."""

    def __init__(self, trainer: HookedTrainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.begin(control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Have the last step evaluated where answers were there before the first. At the end of an epoch it is anyway.

        transformers 5.23 does so too where eval_strategy is steps.
        """
        is_last = state.global_step >= state.max_steps
        if is_last and self.trainer.ask is not None and args.eval_strategy != IntervalStrategy.EPOCH:
            control.should_evaluate = True
