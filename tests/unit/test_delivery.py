"""Batches on their way from workers: equal at their end, in shared memory or not, and none is lost."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.utils.data import DataLoader

from data.batches.workers import WithoutRaising, loader_workers, raise_returned
from data.errors import UserError
from data.packing.layout import RowLayout
from tests.launching import ROOT


def make(numbers):
    """Return a batch of all that collators put into one."""
    (number,) = numbers
    if number == 3:
        raise UserError("the third is none")
    return {
        "pixels": torch.full((1000, 1000), float(number)),
        "features": torch.full((3, 5), number, dtype=torch.bfloat16),
        "nothing": torch.empty(1, 1, 0, 0, dtype=torch.bool),
        "row_layout": RowLayout(((number, ()),)),
        "names": [f"record {number}"],
    }


def check(batch, number):
    assert batch["pixels"].shape == (1000, 1000) and (batch["pixels"] == number).all()
    assert batch["features"].dtype == torch.bfloat16 and (batch["features"] == number).all()
    assert batch["nothing"].shape == (1, 1, 0, 0)
    assert batch["row_layout"] == RowLayout(((number, ()),)) and batch["names"] == [f"record {number}"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_they_are_what_was_made(num_workers, capfd):
    loader = DataLoader(range(5), collate_fn=WithoutRaising(make), **loader_workers(num_workers))
    for number, batch in enumerate(loader):
        if number == 3:
            with pytest.raises(UserError, match="the third is none"):
                raise_returned(batch)
        else:
            check(raise_returned(batch), number)
            assert batch["pixels"].is_shared() == batch["features"].is_shared() == (num_workers > 0)
    assert capfd.readouterr().err == ""


def in_small_memory(program: str) -> subprocess.CompletedProcess:
    """Run a program of Python where /dev/shm has 1 MB; skip where such a one cannot be mounted."""
    mounted = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
    try:
        subprocess.run([*mounted, "true"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.skip(f"no small /dev/shm can be mounted here: {problem}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*mounted, sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_none_is_lost_where_shared_memory_is_small():
    """Batches of 4 MB, shared memory of 1 MB: the loader waited for ever."""
    done = in_small_memory("""
        import os
        from torch.utils.data import DataLoader
        from data.batches.workers import WithoutRaising, loader_workers
        from tests.unit.test_delivery import check, make

        numbers = [0, 1, 2, 4, 5, 6, 7, 8]
        loader = DataLoader(numbers, collate_fn=WithoutRaising(make), **loader_workers(2))
        for number, batch in zip(numbers, loader, strict=True):
            check(batch, number)
            assert not batch["pixels"].is_shared()
        print(os.listdir("/dev/shm"))
    """)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("workers cannot share memory (unable to allocate shared memory") and "--shm-size" in line


def test_no_room_for_locks_is_one_line():
    done = in_small_memory("""
        from data.batches.workers import loader_workers
        from data.command import run_command

        with open("/dev/shm/full", "wb") as file:
            file.write(bytes(2**20))
        run_command(lambda: loader_workers(2))
    """)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "error: dataloader_num_workers: 2 workers cannot be started: No space left on device; make room in /dev/shm "
        "(docker run --shm-size=8g), or use 0\n"
    )
