"""The other end of `data.isolation.child_process`: started by it, answers each job, ends with the one who asks.

python -P -m data.isolation.child_main SECONDS MEMORY
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from data.isolation.child_process import LENGTH
from data.isolation.signals import SIGNALS, let_signals_through

END = object()
PATIENCE = 10  # times a job's seconds: decoders with several threads use as many cores


def main(seconds: float, memory: int) -> None:
    """Answer jobs from stdin on stdout until there are no more. `seconds`: a job's; `memory`: bytes that it may map."""
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints is no answer
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    let_signals_through()
    function = _receive(jobs)
    _limit_memory(memory)
    _send(answers, None, None)
    while (job := _receive(jobs)) is not END:
        # Native code that never returns would outlive a parent that was killed: it gets so much time of a core. A
        # living parent is stricter, and counts by the clock.
        signal.setitimer(signal.ITIMER_PROF, PATIENCE * seconds)
        result, failure = _attempt(function, job, memory)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(answers, result, failure)


def _receive(jobs: BinaryIO) -> Any:
    """Read the next job; END where the parent has closed its end."""
    head = jobs.read(LENGTH.size)
    return ForkingPickler.loads(jobs.read(LENGTH.unpack(head)[0])) if head else END


def _attempt(function: Callable[[Any], Any], job: Any, memory: int) -> tuple[Any, str | None]:
    """Return function(job) and None, or None and what went wrong in one line."""
    try:
        return function(job), None
    except MemoryError:
        return None, f"needs more than {memory / 2**30:.3g} GiB of memory"
    except Exception as error:
        return None, " ".join(f"{type(error).__name__}: {error}".split())


def _send(answers: IO[bytes], result: Any, failure: str | None) -> None:
    """Write an answer: its length, a header in JSON, and the bytes of an array, which the header describes."""
    header: dict[str, Any] = {"result": result, "failure": failure}
    parts: list[memoryview] = []
    if isinstance(result, np.ndarray):
        header = {"shape": result.shape, "dtype": result.dtype.str}
        parts = [np.ascontiguousarray(result).reshape(-1).view(np.uint8).data] if result.size else []
    text = json.dumps(header).encode()
    for part in (memoryview(LENGTH.pack(len(text)) + text), *parts):
        while part:
            part = part[answers.write(part) :]


def _limit_memory(memory: int) -> None:
    """Let this process map so many bytes more than it has (Linux), and dump no core of what it holds."""
    if not (status := Path("/proc/self/statm")).exists():
        return
    import resource  # not on Windows

    mapped = int(status.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, mapped + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    try:
        main(float(sys.argv[1]), int(sys.argv[2]))
    except BrokenPipeError:  # nobody is left to answer to
        sys.exit(1)
