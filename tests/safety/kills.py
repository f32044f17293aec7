"""Processes that are killed at some moment, and a disk that takes no more."""

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOMENTS = 5
LONGEST = 120  # seconds that anything here may take


def killed(function: Callable[[], object], is_time: Callable[[], bool]) -> bool:
    """Run `function` in a fork of this process, and kill it when `is_time` says so; returns whether it was in time."""
    child = os.fork()
    if not child:
        try:
            function()
        finally:
            os._exit(0)
    end = time.monotonic() + LONGEST
    while not is_time():
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            raise TimeoutError(f"process {child} neither came to its end nor to the moment in {LONGEST} s")
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def after(seconds: float) -> Callable[[], bool]:
    """Return what says when so many seconds have passed since it was first asked."""
    asked: list[float] = []

    def is_time() -> bool:
        asked.append(time.monotonic())
        return asked[-1] - asked[0] >= seconds

    return is_time


def random_shares(seed: int) -> list[float]:
    """Return MOMENTS rising numbers between 0 and 1, one of each fifth."""
    drawn = random.Random(seed)
    return [(number + drawn.random()) / MOMENTS for number in range(MOMENTS)]


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond it: as on a full disk, without a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
