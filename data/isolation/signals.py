"""Signals that reach a whole group of processes, and concern one of them: the process that trains."""

import contextlib
import signal
from collections.abc import Iterator

# Sent by a terminal, torchrun, Slurm, and a terminal or connection that is no more.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Keep SIGNALS from a process that begins in this context, until it lets them through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obeyed() -> list[signal.Signals]:
    """Return SIGNALS without SIGHUP where whoever started this process has it ignored, as nohup does: so it stays."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def let_signals_through() -> None:
    """End what `signals_held_back` began, in the process that was begun."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
