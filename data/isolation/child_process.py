"""A process of its own for a function that may hang, crash or eat all memory: killed when it must be."""

import contextlib
import fcntl
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

import numpy as np

from data.isolation.signals import signals_held_back

LENGTH = struct.Struct("<Q")  # bytes of the message that follows
PIPE_BYTES = 2**20  # 64 KiB as they are would be 340 waits for 8 frames of 1280 x 720; 1 MiB is what Linux allows
WAIT_SECONDS = 1.0  # at most, before deadlines are looked at again
DEATH_SECONDS = 10.0  # that a process which has closed its pipe may take to end and leave its own status


# Signals that a process's own code gets it: what it read is the reason. Any other one comes from outside.
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
Ending = Literal["returned", "raised", "crashed", "killed", "late"]


@dataclass(frozen=True)
class Answer:
    """The function's result, or why there is none: `failure`, a line for the user; and how the job ended."""

    result: Any = None
    failure: str | None = None
    ending: Ending = "returned"


class NotStarted(RuntimeError):
    """A process was killed before it could be given a job."""


class ChildProcess:
    """A process that runs function(job), one job after the other, and ends with this one.

    function: a module's, or an object whose class is a module's. It and its jobs are pickled as multiprocessing does;
    what comes back, from a process that has read files of strangers, is what JSON knows, or an array: no code.

    A job that takes more than `seconds` is ended with its process, from outside: native code that never returns is
    survived, and so is a crash. The process may map `memory` bytes more than it begins with (Linux). A process that has
    ended is not used again. `deadline` is inf while it has no job.
    """

    def __init__(self, function: Callable[[Any], Any], seconds: float, memory: int):
        command = [sys.executable, "-P", "-m", "data.isolation.child_main", str(seconds), str(memory)]
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
        with signals_held_back():
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._jobs, self._answers = self._process.stdin, self._process.stdout
        self.owner = os.getpid()  # a fork of it must leave the process alone
        self.seconds, self._has_job, self._begins = seconds, False, True
        self.deadline, self.is_ready, self.has_ended = math.inf, False, False
        _widen(self.fileno())
        self._send(function)

    def fileno(self) -> int:
        """Return what `wait` waits for: it is readable when there is an answer, or none will come."""
        return self._answers.fileno()

    @property
    def is_busy(self) -> bool:
        """Tell whether it has a job, or begins."""
        return not (self.is_ready or self.has_ended)

    def is_alive(self) -> bool:
        """Tell whether it can be given jobs, now or when it has begun."""
        return not self.has_ended and self._process.poll() is None

    def give(self, job: Any) -> None:
        """Hand over a job; the process must be ready."""
        self._has_job, self.is_ready, self.deadline = True, False, time.monotonic() + self.seconds
        self._send(job)

    def _send(self, what: Any) -> None:
        """Write a message. A process that has died meanwhile does not take it, which `answer` finds."""
        data = ForkingPickler.dumps(what)
        rest = memoryview(LENGTH.pack(len(data)) + bytes(data))
        with contextlib.suppress(BrokenPipeError):
            while rest:
                rest = rest[self._jobs.write(rest) :]

    def answer(self) -> Answer | None:
        """Return how its job ended, if it has: done, crashed, or too late."""
        try:
            if wait([self.fileno()], 0):
                return self._receive()
            if time.monotonic() < self.deadline:
                return None
        except TimeoutError:
            pass
        self.end()
        failure = f"takes more than {self.seconds:g} seconds; the decoder hangs or is too slow"
        return Answer(failure=failure, ending="late")

    def ask(self, job: Any) -> Answer:
        """Give a job and wait for its answer, and before that for the process to begin."""
        while not self.is_ready:
            wait_for_any([self])
            self.answer()
        self.give(job)
        while (answer := self.answer()) is None:
            wait_for_any([self])
        return answer

    def _receive(self) -> Answer | None:
        """Read an answer; the first one says that the process is ready, and is none to a job."""
        try:
            header = json.loads(self._read(LENGTH.unpack(self._read(LENGTH.size))[0]))
            if "shape" in header:
                array = np.empty(header["shape"], header["dtype"])
                self._fill(array.reshape(-1).view(np.uint8).data)
                header = {"result": array}
        except EOFError:
            return self._died()
        self.is_ready, self.deadline = True, math.inf
        if self._begins:
            self._begins = False
            return None
        self._has_job = False
        return Answer(**header, ending="returned" if header.get("failure") is None else "raised")

    def _died(self) -> Answer:
        """Return how it died in the midst of a job. Raises NotStarted, or RuntimeError where its own code is why."""
        self.end(patience=DEATH_SECONDS)
        code = self._process.returncode
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        was_killed = code < 0 and -code not in CRASHES
        if not self._has_job:
            error = NotStarted if was_killed else RuntimeError
            raise error(f"a worker process ended at its start: {name}")
        if -code == signal.SIGPROF:  # its own timer, see `child_main`
            return Answer(failure=f"takes more than {self.seconds:g} seconds of a core", ending="late")
        if was_killed:
            return Answer(failure=f"the decoder was killed ({name}); is memory short?", ending="killed")
        return Answer(failure=f"the decoder crashed ({name})", ending="crashed")

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        self._fill(memoryview(data))
        return data

    def _fill(self, target: memoryview) -> None:
        """Read until `target` is full. Raises TimeoutError where that is not in time, EOFError where no more comes."""
        while target:
            left = None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic())
            if not wait([self.fileno()], left):
                raise TimeoutError
            number = os.readv(self.fileno(), [target])
            if not number:
                raise EOFError
            target = target[number:]

    def end(self, patience: float = 0) -> None:
        """Kill it, after `patience` seconds in which it may end by itself and leave its own status.

        In a fork of the process that began it, it belongs to the other one and is left alone.
        """
        self.has_ended, self.is_ready, self.deadline = True, False, math.inf
        if self.owner == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
            self._process.kill()
            self._process.wait()
        self._jobs.close()
        self._answers.close()


def wait_for_any(processes: Collection[ChildProcess]) -> None:
    """Wait until one of them has an answer or its time is over, or for a second.

    Seconds in which this process was stopped, and its children with it (Ctrl-Z), do not count against them.
    """
    began = time.monotonic()
    allowed = max(0, min(WAIT_SECONDS, *(each.deadline - began for each in processes)))
    wait([each.fileno() for each in processes], allowed)
    late = time.monotonic() - began - allowed
    if late > WAIT_SECONDS:
        for each in processes:
            each.deadline += late


def _widen(pipe: int) -> None:
    """Make a pipe wider, where the system can and its limit on the pipes of one user is not reached."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
