"""SIGTERM, SIGUSR1, SIGHUP and Ctrl-C: finish the step, save, leave with the status that docs/errors.md lists."""

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.command import SIGNAL_BASE, is_first_rank
from data.isolation.signals import obeyed
from train.ranks.agreement import any_rank

STDERR = 2
ERASE_LINE = "\r\x1b[2K"


class EvaluationInterrupted(Exception):
    """Leaves an evaluation after a signal: its step is done, and not saved yet.

    An exception like KeyboardInterrupt, because a return value would pass for the result of a whole evaluation.
    """

    def __init__(self, signal: signal.Signals):
        super().__init__(signal.name)
        self.signal = signal


class Interruption(TrainerCallback):
    """The first signal asks for an end at the next step; Ctrl-C a second time leaves at once.

    The latter harms nothing: checkpoints are complete or absent. `signal` is what arrived on this rank, or on another
    one once all have agreed; None while nothing did.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def status(self) -> int:
        """Exit status as in shells: 130, 143, 138 or 129 on Linux; 0 without a signal."""
        return 0 if self.signal is None else SIGNAL_BASE + self.signal

    def notice(self, step: int) -> str:
        """Return what the user should know after an interruption."""
        assert self.signal is not None
        return f"{self.signal.name}: saved after step {step}; the same command continues"

    def listen(self) -> None:
        """Take the signals, before a line invites to press Ctrl-C."""
        self._previous = {number: signal.signal(number, self._ask) for number in obeyed()}

    def restore(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._agreed() and not control.should_training_stop and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Withdraw what is due at an epoch's end where a signal has ended training in its middle."""
        if self.signal is not None and (state.epoch or 0) % 1:
            control.should_evaluate = control.should_save = False

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._agreed() and self.signal is not None:
            raise EvaluationInterrupted(self.signal)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._agreed():
            control.should_training_stop = True

    def _agreed(self) -> bool:
        asked = any_rank(self.signal is not None)
        if asked and self.signal is None:
            self.signal = signal.SIGTERM
        return asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data loader's worker that has just been forked
            return
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            _say("left without saving; the same command continues from the last checkpoint")
            os._exit(SIGNAL_BASE + number)
        again = "; Ctrl-C again leaves without" if number == signal.SIGINT else ""
        if self.signal != number:
            _say(f"{signal.Signals(number).name}: finishing the step, then saving{again}")
        self.signal = signal.Signals(number)


def _say(line: str) -> None:
    """Write a line at once, from within a signal handler: to the terminal's own line, in place of a bar and the ^C."""
    if is_first_rank():
        with suppress(OSError):  # a terminal that is no more
            os.write(STDERR, f"{ERASE_LINE if os.isatty(STDERR) else ''}{line}\n".encode())
