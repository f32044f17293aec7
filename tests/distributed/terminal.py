"""A command in a terminal of 80 columns: what it shows, the keys that are pressed, and whether it leaves anything."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
REELTUNE = (sys.executable, "-c", "from train.commands.app import main; main()")
# Makes the terminal the one whose Ctrl-C reaches the command, and starts it as a shell does: it ignores no signal.
TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
MARK = "STARTED_BY"
CTRL_C = b"\x03"
SIZE = struct.pack("HHHH", 24, 80, 0, 0)  # rows, columns


class Terminal:
    def __init__(self, *command: str | Path, folder: Path):
        self.mark, self.shown = uuid.uuid4().hex, ""
        self._screen, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, SIZE)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *map(str, command)],
            cwd=folder,
            env={**environment, MARK: self.mark, "TERM": "xterm"},
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)

    def press(self, keys: bytes) -> None:
        os.write(self._screen, keys)

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
                self.shown += os.read(self._screen, 65536).decode(errors="replace")
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
        """Return every process that the command has started and that still runs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def rank(self, number: int) -> psutil.Process:
        (found,) = [
            each
            for each in self.processes()
            if each.environ().get("RANK") == str(number) and each.cmdline()[1].endswith("sft.py")
        ]
        return found

    def close(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()
        os.close(self._screen)
