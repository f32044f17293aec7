"""The frame around every command line: a user's error is one line and exit status 2."""

import errno
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from data.errors import NO_ROOM, WAYS_OUT, UserError, with_way_out

SIGNAL_BASE = 128  # exit statuses of shells: this, and the signal's number
CLOSED_PIPE, CTRL_C = SIGNAL_BASE + signal.SIGPIPE, SIGNAL_BASE + signal.SIGINT  # `... | head` is no error
NOBODY_READS = (errno.EPIPE, errno.EIO)  # EIO of a terminal that was closed
INTERRUPTED = "interrupted by Ctrl-C"
SECONDS_OF_CTRL_C = 1.0  # within which an error comes of it: libraries turn KeyboardInterrupt into errors of their own
_ctrl_c = -math.inf  # when it was pressed
LAUNCH_NUMBERS = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
STREAMS = (("stdin", "r", "surrogateescape"), ("stdout", "w", "backslashreplace"), ("stderr", "w", "backslashreplace"))
ERRORS = "REELTUNE_ERRORS"  # folder into which each process writes its line, for whoever started several of them


def run_command(main: Callable[[], Any]) -> None:
    """Run a command line's `main`; a UserError becomes its line on stderr, once for all ranks, and exit status 2."""
    _open_to_any_text()
    if signal.getsignal(signal.SIGINT) in (_leave_at_once, signal.default_int_handler):
        raise_at_ctrl_c()
    try:
        _check_here()
        _check_launch()
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        _stop_writing(sys.stdout)
        sys.exit(CLOSED_PIPE)
    except KeyboardInterrupt:
        _leave_interrupted()
    except Exception as error:
        if time.monotonic() - _ctrl_c < SECONDS_OF_CTRL_C:
            _leave_interrupted()
        if isinstance(error, UserError):
            _leave(str(error))
        is_full = isinstance(error, OSError) and error.errno in NO_ROOM
        if not isinstance(error, OSError) or error.errno not in WAYS_OUT or not (is_full or error.filename):
            raise
        if is_full:  # if it is stdout that has no room, what is left of it can go nowhere
            _stop_writing(sys.stdout)
        what = f"cannot {'write' if is_full else 'use'} {error.filename or 'what is printed'}"
        _leave(f"{what}: {with_way_out(error)}, and start it again")


def _leave_interrupted() -> NoReturn:
    _say_interrupted()
    sys.exit(CTRL_C)


def _check_here() -> None:
    """Raise UserError where the current folder was removed: libraries end the process over that, or do worse."""
    try:
        os.getcwd()
    except FileNotFoundError as problem:
        raise UserError(
            "the folder in which this was started is gone; change to another one (cd), and start it again"
        ) from problem


def _check_launch() -> None:
    """Leave where variables of launchers, left over or set by hand, would make libraries fail or wait. Each process
    says so: which one is the first is not known."""
    for name in LAUNCH_NUMBERS:
        if not re.fullmatch(r"-?\d+", value := os.environ.get(name, "0")):
            _leave(f"{name} is {value!r} in the environment, and launchers put a whole number there; unset it", True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" not in os.environ:
        _leave(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} in the environment, and no RANK says which of these processes "
            "this is; unset WORLD_SIZE, or launch them with accelerate",
            by_all=True,
        )


def is_first_rank() -> bool:
    """Tell whether this process is the one that speaks for all those that were launched together.

    A RANK without WORLD_SIZE is left over from something else.
    """
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def num_processes_here() -> int:
    """Return how many processes were launched together on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def num_cores() -> int:
    """Count the cores that this process may run on, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _leave(line: str, by_all: bool = False) -> NoReturn:
    tell_error(line, by_all)
    sys.exit(2)


def tell_error(line: str, by_all: bool = False) -> None:
    """Show an error once for all processes: by the one that started them, else by the first of them.

    by_all: each shows it, where nobody collects them: it is not the same in all.
    """
    if ERRORS in os.environ:
        Path(os.environ[ERRORS], os.environ["RANK"].zfill(6)).write_text(line, encoding="utf-8")
    elif by_all or is_first_rank():
        show_error(line)


def show_error(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)


def leave_at_ctrl_c() -> None:
    """Leave at Ctrl-C in one line and at once: for imports, in which an exception may be lost."""
    signal.signal(signal.SIGINT, _leave_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # whoever started this may have it blocked


def hear_ctrl_c() -> None:
    """Leave so during the first imports, too, where Ctrl-C is heard: jobs in the background of a script are deaf."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        leave_at_ctrl_c()


def raise_at_ctrl_c() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, so that what is under way is tidied up."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    global _ctrl_c
    _ctrl_c = time.monotonic()
    raise KeyboardInterrupt


def _leave_at_once(number: int, frame: FrameType | None) -> None:
    _say_interrupted()
    sys.stderr.flush()
    os._exit(CTRL_C)


def _say_interrupted() -> None:
    if is_first_rank():
        print(f"\n{INTERRUPTED}" if sys.stderr.isatty() else INTERRUPTED, file=sys.stderr)  # behind the ^C


def _open_to_any_text() -> None:
    """Let streams take letters that their terminal lacks, and bytes that are none, and be there where they were closed
    (`>&-`)."""
    for name, mode, errors in STREAMS:
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, errors=errors))
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)


@contextmanager
def unread_is_fine() -> Iterator[None]:
    """Go on where nobody reads what is printed here any more: a terminal that was closed, a pipe whose reader ended
    (Ctrl-C ends `tee`, too, while a run saves)."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOBODY_READS:
            raise
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                _stop_writing(stream)


def _stop_writing(stream: TextIO) -> None:
    """Point a stream where its rest can go, or Python would complain about it at the end of the process."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
