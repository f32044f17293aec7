"""Figures of a log line: counts, rates, waiting times and memory since the line before."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import psutil
import torch
from accelerate import Accelerator

COUNTS = ("questions", "clips", "pictures", "supervised_tokens")
MIB = 2**20
MEMORY_SECONDS = 0.05  # between two looks at the memory: a step on a CPU takes tenths of a second and more


class Figures:
    """Counts of this process, made into figures of all processes when a line is logged."""

    def __init__(self) -> None:
        peak_memory_mib()  # it begins to look
        self._begin()

    def _begin(self) -> None:
        self._sums: Counter[str] = Counter()
        self._waited = 0.0  # seconds
        self._num_steps = 0
        self._started = time.perf_counter()

    def add(self, counts: Mapping[str, int]) -> None:
        """Add the counts of a micro-batch, by the names in COUNTS."""
        self._sums.update(counts)

    def add_step(self, waited: float) -> None:
        """Count an optimizer step whose data were waited for, in seconds."""
        self._num_steps += 1
        self._waited += waited

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of an evaluation out of that of the steps."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - began

    def take(self, accelerator: Accelerator, saving_seconds: float) -> dict[str, float]:
        """Return the figures and begin anew; nothing where no step was made. ALL RANKS.

        Counts are those of all processes, per optimizer step; seconds are those of one step of this process; memory is
        the peak of this one.
        """
        if not (steps := self._num_steps):
            return {}
        seconds = time.perf_counter() - self._started
        own = torch.tensor([self._sums[name] for name in COUNTS], device=accelerator.device)
        totals = dict(zip(COUNTS, accelerator.reduce(own).tolist(), strict=True))
        figures = {
            **{name: total / steps for name, total in totals.items()},
            "step_s": seconds / steps,
            "data_wait_s": self._waited / steps,
            "save_s": saving_seconds / steps,
            "samples_per_s": totals["questions"] / seconds,
            "supervised_tokens_per_s": totals["supervised_tokens"] / seconds,
            "peak_memory_mib": peak_memory_mib(),
        }
        self._begin()
        return figures


def peak_memory_mib() -> float:
    """Return the most memory held since the first call: of the accelerator where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    return _watch().peak() / MIB


class HeldMemory(threading.Thread):
    """Watches how much memory this process holds, on Linux without the pages of files that it has mapped.

    Those of a checkpoint are resident after it was read, and the system takes them back when it needs room. The peaks
    that Linux keeps itself (VmHWM, ru_maxrss) count them. Other systems do not tell them apart.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._highest, self._process = 0, psutil.Process()
        self._look()
        self.start()

    def run(self) -> None:
        while True:
            time.sleep(MEMORY_SECONDS)
            self._look()

    def peak(self) -> int:
        """Return the most bytes held so far."""
        self._look()
        return self._highest

    def _look(self) -> None:
        memory = self._process.memory_info()
        self._highest = max(self._highest, memory.rss - getattr(memory, "shared", 0))


@lru_cache(1)
def _watch() -> HeldMemory:
    return HeldMemory()
