"""Processes that are killed at some moment, and a disk that takes no more."""

import ctypes
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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


M_MMAP_THRESHOLD = -3  # malloc.h
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000  # linux/sched.h
NOT_ALLOWED = 99


def on_small_disk(folder: Path, size: str, function: Callable[[], object], log: Path) -> str:
    """Run `function` in a fork that sees a tmpfs of `size` at `folder`, gone with it; returns what it printed.

    Skips the test where that takes rights that are not given here.
    """
    user, group = os.getuid(), os.getgid()
    child = os.fork()
    if not child:
        status = NOT_ALLOWED
        try:
            sys.stdout = sys.stderr = printed = open(log, "w", buffering=1)
            for stream in (1, 2):
                os.dup2(printed.fileno(), stream)
            if ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0:
                for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                    Path("/proc/self", name).write_text(text)
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
                status = 1
                function()
                status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == NOT_ALLOWED:
        pytest.skip(f"a process may not mount a tmpfs of its own here: {log.read_text()}")
    assert status == 0, log.read_text()
    return log.read_text()


def make_room(folder: Path, size: str) -> None:
    """Let the disk of `on_small_disk` hold more."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond it: as on a full disk, without a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def peak_of(function: Callable[[], object]) -> int:
    """Run `function` in a fork of this process; return the most bytes of its own that it had beyond those at its start.

    Pages of files do not count: the system takes them back when it likes.
    """
    child = os.fork()
    if not child:
        status = 1
        try:
            libc = ctypes.CDLL(None)
            libc.malloc_trim(0)  # what is free here would be used again uncounted
            libc.mallopt(M_MMAP_THRESHOLD, 2**20)  # tests before have taught malloc to keep what is freed
            os.kill(os.getpid(), signal.SIGSTOP)
            function()
            status = 0
        finally:
            os._exit(status)
    os.waitpid(child, os.WUNTRACED)
    sizes = [own_bytes(child)]
    os.kill(child, signal.SIGCONT)
    end = time.monotonic() + LONGEST
    while (waited := os.waitpid(child, os.WNOHANG))[0] == 0:
        sizes.append(own_bytes(child))
        time.sleep(0.002)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            raise TimeoutError(f"process {child} did not come to its end in {LONGEST} s")
    assert os.waitstatus_to_exitcode(waited[1]) == 0
    return max(sizes) - sizes[0]


def own_bytes(process: int) -> int:
    """Return a process's resident memory that is no file's; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except ProcessLookupError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)
