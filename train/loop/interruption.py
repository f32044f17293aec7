"""SIGTERM, SIGUSR1 and Ctrl-C: finish the step, save, leave with the status that the README lists."""

import os
import signal
from collections.abc import Callable

from transformers import TrainerCallback

from data.isolation.signals import SIGNALS
from train.ranks.agreement import any_rank


class EvaluationInterrupted(Exception):
    """Raised out of an evaluation by a signal: its step is done, and not saved yet."""


class Interruption(TrainerCallback):
    """While training, the first signal asks for an end at the next step; Ctrl-C a second time leaves at once, which
    harms nothing: checkpoints are complete or absent.

    `signal` is what arrived on this rank, or on another one once all have agreed; None while nothing did.
    """

    def __init__(self, before_first_step: Callable[[], None] | None = None):
        self.before_first_step = before_first_step
        self.signal: signal.Signals | None = None
        self._process = os.getpid()
        self._previous = {}

    @property
    def status(self) -> int:
        """Exit status, the shell's way: 130, 143 or 138 on Linux."""
        return 128 + self.signal

    def on_train_begin(self, args, state, control, **kwargs):
        self._previous = {number: signal.signal(number, self._ask) for number in SIGNALS}
        if self.before_first_step is not None:
            self.before_first_step()

    def restore(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_step_end(self, args, state, control, **kwargs):
        if self._agreed() and not control.should_training_stop and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        """Trainer comes here from an epoch's middle too; what is due at its end is not due then."""
        if self.signal is not None and state.epoch % 1:
            control.should_evaluate = control.should_save = False

    def on_prediction_step(self, args, state, control, **kwargs):
        if self._agreed():
            raise EvaluationInterrupted

    def on_save(self, args, state, control, **kwargs):
        if self._agreed():
            control.should_training_stop = True

    def _agreed(self) -> bool:
        asked = any_rank(self.signal is not None)
        if asked and self.signal is None:
            self.signal = signal.SIGTERM
        return asked

    def _ask(self, number: int, frame) -> None:
        if os.getpid() != self._process:  # a data loader's worker that has just been forked
            return
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
