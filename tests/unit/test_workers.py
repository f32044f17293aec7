"""Workers of data loaders: no forks of a rank, deaf to its signals, gone when it is gone."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from data.batches.workers import loader_workers
from tests.launching import ROOT


class Squares(list):
    """Numbers that are squared when they are read."""

    def __getitem__(self, index: int) -> int:
        return super().__getitem__(index) ** 2


class Devices(list):
    """The devices that whoever asks may see."""

    def __getitem__(self, index: int) -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.fixture
def rank(tmp_path):
    """This process is the only one of a group."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def num_forks() -> int:
    """Return how often this process forks for two workers."""
    forks = []
    os.register_at_fork(before=lambda: forks.append("a fork"))
    assert list(DataLoader(Squares(range(6)), batch_size=None, **loader_workers(2))) == [0, 1, 4, 9, 16, 25]
    return len(forks)


def test_nothing_is_forked_from_a_rank(rank):
    assert num_forks() == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch.cuda.is_available() is True: its threads forbid forks")
def test_one_process_without_a_gpu_forks():
    assert num_forks() == 2


@pytest.mark.parametrize("visible", ["0", None])
def test_forks_of_the_server_see_no_device(rank, monkeypatch, visible):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list(DataLoader(Devices(range(2)), batch_size=None, **loader_workers(1))) == ["", ""]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_no_worker_no_server():
    assert loader_workers(0) == {"num_workers": 0}


PROGRAM = """
import sys
import torch.distributed as dist
from torch.utils.data import DataLoader
from data.batches.workers import loader_workers
if __name__ == "__main__":
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
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
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "store")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"0\n"
        yield process
        process.kill()


def others(process) -> list[psutil.Process]:
    """Count the server, its two workers, and what cleans up behind them."""
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
