"""The frame around every command line: a user's error is one line and exit status 2."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import NoReturn

from data.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STATUS_OF_A_CLOSED_PIPE = 128 + signal.SIGPIPE  # as a shell counts it: `... | head` is no error
INTERRUPTED = "interrupted by Ctrl-C"
CTRL_C = 128 + signal.SIGINT


def run_command(main: Callable[[], None]) -> None:
    """Run a command line's `main`; a UserError becomes its line on stderr, once for all ranks, and exit status 2."""
    _open_to_any_text()
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        _stop_writing()
        sys.exit(STATUS_OF_A_CLOSED_PIPE)
    except UserError as error:
        _leave(str(error))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        _stop_writing()  # if it is stdout that has no room, what is left of it can go nowhere
        _leave(f"cannot write {error.filename or 'what is printed'}: {error.strerror}; make room, and start it again")
    except KeyboardInterrupt:
        if is_first_rank():
            print(f"\n{INTERRUPTED}" if sys.stderr.isatty() else INTERRUPTED, file=sys.stderr)  # behind the ^C
        sys.exit(CTRL_C)


def is_first_rank() -> bool:
    """Tell whether this process is the one that speaks for all those that were launched together."""
    return os.environ.get("RANK", "0") == "0"


def _leave(line: str) -> NoReturn:
    if is_first_rank():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def _open_to_any_text() -> None:
    """Let both streams take letters that their terminal lacks, and be there where they were closed (`>&-`)."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", errors="ignore"))
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stop_writing() -> None:
    """Point stdout where its rest can go, or Python would complain about it at the end of the process."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
