"""The progress of a run: lines and a bar in a terminal, lines alone elsewhere. The first rank speaks for all."""

import atexit
import sys
import time
from collections.abc import Sized
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.packing.rows import Rows
from train.progress.lines import HEADER, duration, evaluation_line, pace_line, plan_lines, summary_line, training_line

STEPS_TO_A_PACE = 3  # after which the time left is told; the first is not counted, it warms up
REFRESHES_PER_SECOND = 10
BAR_WIDTH = 30


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


class SteadyConsole(Console):
    """A console that leaves the cursor alone: a process that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class Display(TrainerCallback):
    """Takes the place of transformers' own progress, which shows every figure there is as a dict."""

    def __init__(self, start_up: StartUp, rows: Rows, rows_per_step: int):
        self.start_up, self.rows, self.rows_per_step = start_up, rows, rows_per_step
        self._bar: Progress | None = None
        self._step_ends: list[float] = []  # the first, and the latest
        self._num_steps = 0  # of this process
        self._refreshed = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.start_up.ended("trainer")
        if not state.is_world_process_zero:
            return
        trained = sum(each.numel() for each in kwargs["model"].parameters() if each.requires_grad)
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
        if sys.stderr.isatty() and not args.disable_tqdm:
            self._open_bar(state)
        for line in (*plan, HEADER):
            self._show(line)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._num_steps += 1
        self._step_ends = [*self._step_ends[:1], time.perf_counter()]
        if not state.is_world_process_zero:
            return
        left = self._seconds_left(state)
        if self._num_steps == STEPS_TO_A_PACE and left is not None:
            self._show(pace_line(left / max(1, state.max_steps - state.global_step), left))
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=state.global_step, left=duration(left) if left is not None else "-"
            )
            self._refresh()

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
            self._show(training_line(logs, state.global_step, state.max_steps, self._seconds_left(state)))
        elif "eval_loss" in logs:
            self._show(evaluation_line(logs, state.global_step, state.max_steps))
        elif "train_runtime" in logs:
            self._show(summary_line(logs))

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        if self._bar is None or eval_dataloader is None:
            return
        if len(self._bar.task_ids) == 1:
            self._bar.add_task("evaluation", total=len(eval_dataloader), left="")
        self._bar.advance(self._bar.task_ids[1])
        self._refresh()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._bar is not None and len(self._bar.task_ids) > 1:
            self._bar.remove_task(self._bar.task_ids[1])
            self._bar.refresh()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away; the lines stay."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _open_bar(self, state: TrainerState) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(BAR_WIDTH),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=SteadyConsole(file=sys.stderr),
            auto_refresh=False,  # a thread that prints, and a fork beside it, would hold its lock for ever
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._bar.add_task("training", total=state.max_steps, completed=state.global_step, left="-")
        self._bar.start()
        atexit.register(self.close)  # an error leaves it open, behind whose line it goes

    def _refresh(self) -> None:
        now = time.perf_counter()
        if self._bar is not None and now - self._refreshed > 1 / REFRESHES_PER_SECOND:
            self._refreshed = now
            self._bar.refresh()

    def _seconds_left(self, state: TrainerState) -> float | None:
        if self._num_steps < 2:
            return None
        first, latest = self._step_ends
        return (latest - first) / (self._num_steps - 1) * (state.max_steps - state.global_step)

    def _show(self, line: str) -> None:
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.console.print(line, markup=False, highlight=False, no_wrap=True, crop=True)
