"""Work on files that may hang, crash or eat all memory: in processes that are watched, killed and replaced."""

import math
import multiprocessing
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What `function` returned for jobs[job], or why there is nothing: `failure`, a line for the user."""

    job: int
    result: Any = None
    failure: str | None = None


def supervise(
    function: Callable[[Any], Any], jobs: Sequence[Any], *, num_workers: int, seconds: float, memory: int
) -> Iterator[Outcome]:
    """function(job) for every job, each in one of `num_workers` processes; outcomes as they come, one a job.

    A job that takes more than `seconds` is ended with its process, from outside: native code that never returns is
    survived, and so is a crash. Each process may map `memory` bytes more than it begins with (Linux). Function and
    jobs are pickled; the function is one of a module.
    """
    pending, workers = deque(enumerate(jobs)), []
    context = _context(function)
    try:
        while pending or workers:
            while len(workers) < min(num_workers, len(pending) + sum(worker.is_busy for worker in workers)):
                workers.append(_Worker(context, function, seconds, memory))
            first = min(worker.deadline for worker in workers)
            wait(
                [worker.connection for worker in workers],
                None if first == math.inf else max(0, first - time.monotonic()),
            )
            for worker in list(workers):
                if outcome := worker.outcome():
                    yield outcome
                if worker.is_ready and pending:
                    worker.give(*pending.popleft())
                elif not worker.is_busy and (not pending or worker.has_ended):
                    worker.end()
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.end()


def _context(function: Callable):
    """Processes that come from a clean one, which imports what is imported here once: replacing one is quick.

    Never a fork of this process: its threads, FFmpeg's and OpenMP's, do not survive that. Each process runs the
    imports of the main module again, so those of `train` must be there, too.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    imported = [name for name in sys.modules if name.partition(".")[0] in ("data", "train")]
    context.set_forkserver_preload([function.__module__, *imported])
    return context


class _Worker:
    """One process with the job it has. `deadline` is inf while it has none."""

    def __init__(self, context, function: Callable, seconds: float, memory: int):
        self.connection, its_end = context.Pipe()
        self._process = context.Process(target=_work, args=(its_end, function, memory), daemon=True)
        self._process.start()
        its_end.close()  # so that the end of the process is the end of the pipe
        self._seconds, self._job = seconds, None
        self.deadline, self.is_ready, self.has_ended = math.inf, False, False

    @property
    def is_busy(self) -> bool:
        """It has a job, or begins."""
        return not (self.is_ready or self.has_ended)

    def give(self, number: int, job: Any) -> None:
        self._job, self.is_ready, self.deadline = number, False, time.monotonic() + self._seconds
        try:
            self.connection.send(job)
        except OSError:  # it has died meanwhile, which `outcome` finds
            return

    def outcome(self) -> Outcome | None:
        """The end of its job, if that has come: done, crashed, or too late."""
        if self.connection.poll():
            return self._receive()
        if time.monotonic() < self.deadline:
            return None
        self.end()
        return Outcome(
            self._job, failure=f"takes more than {self._seconds:g} seconds; the decoder hangs or is too slow"
        )

    def _receive(self) -> Outcome | None:
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.end(patience=10)
            if self._job is None:
                raise RuntimeError(f"a worker process ended at its start: {self._ending()}") from None
            return Outcome(self._job, failure=f"the decoder crashed ({self._ending()})")
        number, self._job = self._job, None
        self.is_ready, self.deadline = True, math.inf
        return None if number is None else Outcome(number, *message)

    def _ending(self) -> str:
        code = self._process.exitcode
        return signal.Signals(-code).name if code and code < 0 else f"exit status {code}"

    def end(self, patience: float = 0) -> None:
        """Kill it, after `patience` seconds in which it may end by itself and leave its own status."""
        self.has_ended, self.is_ready, self.deadline = True, False, math.inf
        self._process.join(patience)
        self._process.kill()
        self._process.join()
        self.connection.close()


def _work(connection: Connection, function: Callable, memory: int) -> None:
    """The life of a worker: says that it is ready, then answers each job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    _limit_memory(memory)
    connection.send(None)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_attempt(function, job, memory))


def _attempt(function: Callable, job: Any, memory: int) -> tuple[Any, str | None]:
    try:
        return function(job), None
    except MemoryError:
        return None, f"needs more than {memory / 2**30:.3g} GiB of memory"
    except Exception as error:
        return None, " ".join(f"{type(error).__name__}: {error}".split())


def _limit_memory(memory: int) -> None:
    if not (status := Path("/proc/self/statm")).exists():
        return
    import resource  # not on Windows

    mapped = int(status.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, mapped + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
