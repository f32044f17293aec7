"""Workers of data loaders: no forks of the process that uses them, deaf to its signals, gone when it is gone."""

import os
import signal
import subprocess
import sys
import time

import psutil
from torch.utils.data import DataLoader

from data.workers import loader_workers
from tests.launching import ROOT


class Squares(list):
    """Of its numbers, each made by a worker that takes its time."""

    def __getitem__(self, index: int) -> int:
        time.sleep(0.05)
        return super().__getitem__(index) ** 2


def test_nothing_is_forked_from_this_process():
    forks = []
    os.register_at_fork(before=lambda: forks.append("a fork"))
    assert list(DataLoader(Squares(range(6)), batch_size=None, **loader_workers(2))) == [0, 1, 4, 9, 16, 25]
    assert forks == []


def test_no_worker_no_server():
    assert loader_workers(0) == {"num_workers": 0}


def test_signals_of_the_whole_group_leave_them_alone():
    squares = iter(DataLoader(Squares(range(40)), batch_size=None, prefetch_factor=2, **loader_workers(2)))
    assert next(squares) == 0
    ours = psutil.Process()
    children, others = ours.children(), ours.children(recursive=True)
    assert len(others) >= len(children) + 2 >= 4  # the server, what cleans up behind it, and the workers
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        for process in others:
            process.send_signal(number)
    assert list(squares) == [number**2 for number in range(1, 40)]
    assert all(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


PROGRAM = """
from torch.utils.data import DataLoader
from data.workers import loader_workers
if __name__ == "__main__":
    batches = iter(DataLoader(range(10**6), batch_size=None, **loader_workers(2)))
    next(batches)
    print("begun", flush=True)
    for _ in batches:
        pass
"""


def test_they_end_with_a_process_that_is_killed(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(tmp_path / "program.py")], env=environment, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    others = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert len(others) >= 4  # the server, its two workers, and what cleans up behind them
    assert psutil.wait_procs(others, timeout=60)[1] == []
