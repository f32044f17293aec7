"""A command in a terminal of 80 columns: what it shows, the keys that are pressed, and whether it leaves anything."""

import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.process_names import process_name

ROOT = Path(__file__).parents[2]
REELTUNE = (sys.executable, "-c", "from train.commands.app import main; main()")
CTRL_C, CTRL_D = b"\x03", b"\x04"
SIZE = struct.pack("HHHH", 24, 80, 0, 0)  # rows, columns


def take_terminal() -> None:
    """Make stdin the terminal whose Ctrl-C reaches this process, which ignores no signal: as a shell starts one."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """start: `Warm` where importing is no part of what is looked at."""

    def __init__(self, *command: str | Path, folder: Path, start: type = subprocess.Popen):
        self.shown = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # a read may end amid a letter
        self._screen, inside = pty.openpty()
        self._name = os.ttyname(inside)
        fcntl.ioctl(inside, termios.TIOCSWINSZ, SIZE)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            environment.pop(name, None)
        self.process = start(
            [*map(str, command)],
            cwd=folder,
            env={**environment, "TERM": "xterm"},
            preexec_fn=take_terminal,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)

    def press(self, keys: bytes) -> None:
        os.write(self._screen, keys)

    def hang_up(self) -> int:
        """Close the terminal, as a connection that breaks does, and return the exit status of what ran in it."""
        os.close(self._screen)
        self._screen = os.open(os.devnull, os.O_RDONLY)
        return self.process.wait(100)

    def wait_for(self, words: str, seconds: float = 200) -> float:
        """Read until the words are shown, and return how many seconds it took."""
        start = time.monotonic()
        while words not in self.shown:
            assert time.monotonic() < start + seconds and self._read(), self.shown
        return time.monotonic() - start

    def _read(self) -> bool:
        """Take in what is shown now; False when nothing will come any more."""
        if select.select([self._screen], [], [], 0.1)[0]:
            try:
                self.shown += self._decode(os.read(self._screen, 65536))
            except OSError:  # nobody has it open on the other side
                return False
        return True

    def end(self, seconds: float = 100) -> int:
        """Read to the end, and return the exit status; AssertionError where a process is left."""
        deadline = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < deadline, self.shown
        status = self.process.wait(10)
        assert self.processes() == [], self.shown
        return status

    def processes(self) -> list[psutil.Process]:
        """Return every process that the command has started and that still runs: those that could write here."""
        found, own = [], os.getpid()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                streams = {os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)}
                if self._name in streams and process.pid != own and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def rank(self, number: int) -> psutil.Process:
        (found,) = [each for each in self.processes() if each.name() == process_name("sft.py", number)]
        return found

    def close(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()
        os.close(self._screen)
