"""A process of its own for a function that may hang, crash or eat all memory: watched, killed, and never missed."""

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
from typing import Any

import numpy as np

from data.isolation.signals import signals_held_back

LENGTH = struct.Struct("<Q")
PIPE_BYTES = 2**20  # 64 KiB as they are would be 340 waits for 8 frames of 1280 x 720; 1 MiB is what Linux allows
SLICE = 1.0  # seconds


@dataclass(frozen=True)
class Answer:
    """What the function returned, or why there is nothing: `failure`, a line for the user."""

    result: Any = None
    failure: str | None = None


class ChildProcess:
    """function(job), one job after the other, in a process that ends with this one.

    function: of a module, or an object of a class of one. It and its jobs go there as multiprocessing sends them; what
    comes back, from a process that has read files of strangers, is what JSON knows, or an array: no code.

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
        self.owner = os.getpid()  # a fork of it must leave the process alone
        self.seconds, self._has_job, self._begins = seconds, False, True
        self.deadline, self.is_ready, self.has_ended = math.inf, False, False
        _widen(self.fileno())
        self._send(function)

    def fileno(self) -> int:
        """For `wait`: readable when there is an answer, or none will come."""
        return self._process.stdout.fileno()

    @property
    def is_busy(self) -> bool:
        """It has a job, or begins."""
        return not (self.is_ready or self.has_ended)

    def is_alive(self) -> bool:
        return not self.has_ended and self._process.poll() is None

    def give(self, job: Any) -> None:
        """To a process that is ready."""
        self._has_job, self.is_ready, self.deadline = True, False, time.monotonic() + self.seconds
        self._send(job)

    def _send(self, what: Any) -> None:
        data = ForkingPickler.dumps(what)
        rest = memoryview(LENGTH.pack(len(data)) + bytes(data))
        with contextlib.suppress(BrokenPipeError):  # it has died meanwhile, which `answer` finds
            while rest:
                rest = rest[self._process.stdin.write(rest) :]

    def answer(self) -> Answer | None:
        """The end of its job, if that has come: done, crashed, or too late."""
        try:
            if wait([self], 0):
                return self._receive()
            if time.monotonic() < self.deadline:
                return None
        except TimeoutError:
            pass
        self.end()
        return Answer(failure=f"takes more than {self.seconds:g} seconds; the decoder hangs or is too slow")

    def ask(self, job: Any) -> Answer:
        """Waits for its start, and for the answer."""
        while not self.is_ready:
            wait_for_any([self])
            self.answer()
        self.give(job)
        while (answer := self.answer()) is None:
            wait_for_any([self])
        return answer

    def _receive(self) -> Answer | None:
        try:
            header = json.loads(self._read(LENGTH.unpack(self._read(LENGTH.size))[0]))
            if "shape" in header:
                array = np.empty(header["shape"], header["dtype"])
                self._fill(memoryview(array).cast("B") if array.size else memoryview(b""))
                header = {"result": array}
        except EOFError:
            return self._died()
        self.is_ready, self.deadline = True, math.inf
        if self._begins:
            self._begins = False
            return None
        self._has_job = False
        return Answer(**header)

    def _died(self) -> Answer:
        self.end(patience=10)
        code = self._process.returncode
        ending = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        if not self._has_job:
            raise RuntimeError(f"a worker process ended at its start: {ending}")
        return Answer(failure=f"the decoder crashed ({ending})")

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        self._fill(memoryview(data))
        return data

    def _fill(self, target: memoryview) -> None:
        """TimeoutError where the rest of an answer does not come in time."""
        while target:
            if not wait([self], None if self.deadline == math.inf else max(0, self.deadline - time.monotonic())):
                raise TimeoutError
            number = os.readv(self.fileno(), [target])
            if not number:
                raise EOFError
            target = target[number:]

    def end(self, patience: float = 0) -> None:
        """Kill it, after `patience` seconds in which it may end by itself and leave its own status."""
        self.has_ended, self.is_ready, self.deadline = True, False, math.inf
        if self.owner == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
            self._process.kill()
            self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def wait_for_any(watched: Collection[ChildProcess]) -> None:
    """Until one of them has an answer or its time is over, or for a second.

    Seconds in which this process was stopped, and its children with it (Ctrl-Z), are not theirs.
    """
    began = time.monotonic()
    allowed = max(0, min(SLICE, *(each.deadline - began for each in watched)))
    wait(list(watched), allowed)
    late = time.monotonic() - began - allowed
    if late > SLICE:
        for each in watched:
            each.deadline += late


def _widen(pipe: int) -> None:
    """Where the system can, and its limit on the pipes of one user is not reached."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
