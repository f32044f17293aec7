"""Signals that reach a whole group of processes, and concern one of them: the process that trains."""

import contextlib
import signal
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # sent by a terminal, torchrun and Slurm


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Keep SIGNALS from a process that begins in this context, until it lets them through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_signals_through() -> None:
    """End what `signals_held_back` began, in the process that was begun."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
