"""The processes of a run, started, signalled and waited for by one that does only this."""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from data.command import ERRORS, SIGNAL_BASE, show_error
from data.isolation.signals import obeyed, signals_held_back
from train.ranks.beginning import FROM_CHECKPOINT
from train.ranks.hardware import SCRIPT, Hardware

LOOKS_PER_SECOND = 20
# What the others get to end by themselves once one has failed: they notice a lost connection at once over gloo, and
# torchrun waits as long.
GRACE_SECONDS = 30.0
SECOND_CTRL_C_SECONDS = 5.0  # ranks leave at once, unless they wait for each other in native code
LOST = "lost the connection"  # in the line of a rank that misses another, see `train.ranks.processes`


def launch(
    hardware: Hardware, arguments: Sequence[str], script: Path | None = None, goes_on: str = FROM_CHECKPOINT
) -> int:
    """Train, or run another script, in several processes until the last has ended, and return the exit status of the
    first that failed.

    goes_on: what the same command does when a process was killed.

    They are sessions of their own: what a terminal sends reaches this process alone, which passes it on once.
    """
    with tempfile.TemporaryDirectory() as errors:
        ranks = Ranks()
        before = {number: signal.signal(number, ranks.pass_on) for number in obeyed()}
        try:
            for local_rank in range(hardware.num_processes):
                environment = {**os.environ, **hardware.environment_of(local_rank), ERRORS: errors}
                ranks.start([sys.executable, str(script or SCRIPT), *arguments], environment)
            status = ranks.wait()
        finally:
            ranks.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        lines = dict.fromkeys(path.read_text(encoding="utf-8") for path in sorted(Path(errors).iterdir()))
    if status < 0:
        number = hardware.first_rank + ranks.first
        show_error(
            f"process {number} of {hardware.num_everywhere} was killed by {signal.Signals(-status).name}; the same "
            f"command {goes_on}"
        )
    for line in lines:
        if LOST not in line or 0 < status < SIGNAL_BASE:  # else it only follows from a signal
            show_error(line)
    return status if status >= 0 else SIGNAL_BASE - status


class Ranks:
    """Processes that end together. first: the number of the one that failed first."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen] = []
        self._num_ctrl_c, self._deadline = 0, math.inf
        self.first = -1

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Start one more. It lets signals through when it can take them (`train.ranks.beginning`)."""
        with signals_held_back():
            self._processes.append(subprocess.Popen(command, env=environment, start_new_session=True))

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """Send a signal that has arrived here to all of them."""
        for process in self._processes:
            process.send_signal(number)
        self._num_ctrl_c += number == signal.SIGINT
        if self._num_ctrl_c > 1:
            self._deadline = min(self._deadline, time.monotonic() + SECOND_CTRL_C_SECONDS)

    def wait(self) -> int:
        """Wait for all to end; return the status of the first that failed, 0 if none did.

        The others are killed where they do not end by themselves.
        """
        while any([process.poll() is None for process in self._processes]):
            self._note_failure()
            if time.monotonic() > self._deadline:
                self.kill()
            time.sleep(1 / LOOKS_PER_SECOND)
        self._note_failure()
        return 0 if self.first < 0 else self._processes[self.first].returncode

    def _note_failure(self) -> None:
        failed = [number for number, process in enumerate(self._processes) if process.poll()]
        if failed and self.first < 0:
            self.first = failed[0]
            self._deadline = min(self._deadline, time.monotonic() + GRACE_SECONDS)

    def kill(self) -> None:
        """End those that still run, and what they have started."""
        for process in self._processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
