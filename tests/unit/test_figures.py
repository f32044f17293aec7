"""Figures of a log line: which memory counts."""

import mmap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from train.loop import figures as measuring
from train.loop.figures import MEMORY_SECONDS, MIB, Figures, HeldMemory, peak_memory_mib

STATM = Path("/proc/self/statm")  # Linux's count of pages: all, resident, those of them that belong to files
NUM_MIB = 96  # much more than what else a test process takes meanwhile
of_linux = pytest.mark.skipif(
    torch.cuda.is_available() or not STATM.exists(), reason="torch.cuda.is_available(), or no /proc/self/statm"
)


@of_linux
def test_pages_of_a_mapped_file_are_not_held(tmp_path):
    """Reading a checkpoint maps it: these pages are resident, and the system takes them back when it needs room."""
    (tmp_path / "weights").write_bytes(bytes(NUM_MIB * MIB))
    before = peak_memory_mib()
    with open(tmp_path / "weights", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert not any(mapped[:: mmap.PAGESIZE])
        resident, of_files = map(int, STATM.read_bytes().split()[1:3])
        assert of_files * mmap.PAGESIZE >= NUM_MIB * MIB, "it is resident"
        time.sleep(3 * MEMORY_SECONDS)
        assert peak_memory_mib() - before < NUM_MIB / 2


@of_linux
def test_memory_that_was_held_for_a_while_is_the_peak():
    before = peak_memory_mib()
    _, resident, of_files = map(int, STATM.read_bytes().split()[:3])
    beyond = int(before * MIB) - (resident - of_files) * mmap.PAGESIZE + NUM_MIB * MIB
    held = torch.ones(beyond // 4)
    time.sleep(10 * MEMORY_SECONDS)
    del held
    assert before + NUM_MIB / 2 < peak_memory_mib() < before + 2 * NUM_MIB


def test_memory_is_counted_in_bytes_where_there_is_no_proc(monkeypatch):
    """psutil tells on macOS what is resident, and of nothing else."""
    told = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=NUM_MIB * MIB))
    monkeypatch.setattr(measuring.psutil, "Process", lambda: told)
    assert HeldMemory().peak() == NUM_MIB * MIB


def test_an_evaluation_is_no_part_of_a_step(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])
    figures = Figures()
    figures.add({"questions": 8, "clips": 1, "pictures": 0, "supervised_tokens": 16})
    now[0] += 3.0
    with pytest.raises(KeyboardInterrupt), figures.paused():
        now[0] += 50.0
        raise KeyboardInterrupt
    now[0] += 1.0
    figures.add_step(waited=0.5)
    taken = figures.take(Accelerator(cpu=True), saving_seconds=0.0)
    assert (taken["step_s"], taken["samples_per_s"], taken["supervised_tokens_per_s"]) == (4.0, 2.0, 4.0)
