"""Workers of data loaders: no forks of the process that uses them, deaf to its signals, gone when it is gone."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from torch.utils.data import DataLoader

from data.workers import loader_workers
from tests.launching import ROOT


class Squares(list):
    """Of its numbers."""

    def __getitem__(self, index: int) -> int:
        return super().__getitem__(index) ** 2


def test_nothing_is_forked_from_this_process():
    forks = []
    os.register_at_fork(before=lambda: forks.append("a fork"))
    assert list(DataLoader(Squares(range(6)), batch_size=None, **loader_workers(2))) == [0, 1, 4, 9, 16, 25]
    assert forks == []


def test_no_worker_no_server():
    assert loader_workers(0) == {"num_workers": 0}


PROGRAM = """
import sys
from torch.utils.data import DataLoader
from data.workers import loader_workers
if __name__ == "__main__":
    numbers = iter(DataLoader(range(10**6), batch_size=None, **loader_workers(2)))
    print(next(numbers), flush=True)
    sys.stdin.readline()
    print(next(numbers), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def process(tmp_path):
    """Prints 0 when its workers have begun, and the next number when it is asked."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command, environment = [sys.executable, str(tmp_path / "program.py")], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"0\n"
        yield process
        process.kill()


def others(process) -> list[psutil.Process]:
    """The server, its two workers, and what cleans up behind them."""
    found = psutil.Process(process.pid).children(recursive=True)
    assert len(found) == 4
    return found


def test_signals_of_the_whole_group_leave_them_alone(process):
    before = others(process)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        for other in before:
            other.send_signal(number)
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"1\n"
    assert psutil.wait_procs(before, timeout=1)[0] == [] and others(process) == before


def test_they_end_with_a_process_that_is_killed(process):
    before = others(process)
    process.kill()
    assert psutil.wait_procs(before, timeout=60)[1] == []
