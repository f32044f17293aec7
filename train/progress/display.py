"""The progress of a run: lines and a bar in a terminal, lines alone elsewhere. The first rank speaks for all."""

import logging
import time
from collections.abc import Sized
from typing import Any

import psutil
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_model_param_count

from data.packing.rows import Rows
from data.progress.bars import SCREEN, Bar, open_bar
from data.progress.durations import duration
from train.progress.lines import HEADER, evaluation_lines, pace_line, plan_lines, summary_line, training_line

STEPS_TO_A_PACE = 3  # after which the time left is told; the first is not counted, it warms up

logger = logging.getLogger(__name__)


class StartUp:
    """The seconds from the process's begin to the first step, by part."""

    def __init__(self) -> None:
        self.parts = {"libraries": time.time() - psutil.Process().create_time()}
        self._since = time.perf_counter()

    def ended(self, part: str) -> None:
        """Note what has been done since the part before."""
        now = time.perf_counter()
        self.parts[part] = now - self._since
        self._since = now


class Display(TrainerCallback):
    """Takes the place of transformers' own progress, which shows every figure there is as a dict."""

    def __init__(self, start_up: StartUp, rows: Rows, rows_per_step: int):
        self.start_up, self.rows, self.rows_per_step = start_up, rows, rows_per_step
        self._bar: Bar | None = None
        self._evaluation: Bar | None = None
        self._evaluated: DataLoader | None = None
        self._step_ends: list[float] = []  # the first, and the latest
        self._num_steps = 0  # of this process

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.start_up.ended("trainer")
        if not state.is_world_process_zero:
            return
        trained = get_model_param_count(kwargs["model"], trainable_only=True)  # ZeRO-3 leaves each rank a share
        plan = plan_lines(
            self.rows.num_samples(),
            len(self.rows) if isinstance(self.rows, Sized) else None,
            self.rows_per_step,
            state.max_steps,
            state.global_step,
            state.num_train_epochs,
            trained,
            self.start_up.parts,
        )
        about = {"is_told": False, "delay": 0.0}  # its lines are those of the log
        self._bar = open_bar("training", state.max_steps, done=state.global_step, left="-", **about)
        for line in (*plan, HEADER):
            logger.info(line)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._num_steps += 1
        self._step_ends = [*self._step_ends[:1], time.perf_counter()]
        if not state.is_world_process_zero:
            return
        left = self._seconds_left(state)
        if self._num_steps == STEPS_TO_A_PACE and left is not None:
            logger.info(pace_line(left / max(1, state.max_steps - state.global_step), left))
        if self._bar is not None:
            self._bar.done, self._bar.left = state.global_step, "-" if left is None else duration(left)
            SCREEN.look()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            logger.info(training_line(logs, state.global_step, state.max_steps, self._seconds_left(state)))
        elif "eval_loss" in logs:
            for line in evaluation_lines(logs, state.global_step, state.max_steps):
                logger.info(line)
        elif "train_runtime" in logs:
            logger.info(summary_line(logs))

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or eval_dataloader is None:
            return
        if self._evaluation is None:
            self._evaluation = open_bar("evaluation", 0, "batches")
        if eval_dataloader is not self._evaluated:  # each source and modality has one
            self._evaluation.total = (self._evaluation.total or 0) + len(eval_dataloader)
            self._evaluated = eval_dataloader
        self._evaluation.advance()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._evaluation is not None:
            SCREEN.close(self._evaluation)
            self._evaluation = self._evaluated = None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            SCREEN.close(self._bar)
            self._bar = None

    def _seconds_left(self, state: TrainerState) -> float | None:
        if self._num_steps < 2:
            return None
        first, latest = self._step_ends
        return (latest - first) / (self._num_steps - 1) * (state.max_steps - state.global_step)
