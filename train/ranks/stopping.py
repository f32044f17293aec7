"""Signals that end a command of several processes: noted by each, obeyed by all when they meet."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

from data.command import SIGNAL_BASE
from data.isolation.signals import obeyed


class StopSignals:
    """Notes the first signal for whoever asks; Ctrl-C a second time leaves at once."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> int:
        """Return the number of the signal that has arrived, or 0."""
        return self.number

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in obeyed()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.number:
            os._exit(SIGNAL_BASE + number)
        self.number = self.number or number
