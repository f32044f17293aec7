"""Figures of a log line: counts, rates, waiting times and memory since the line before."""

import time
from collections import Counter
from collections.abc import Mapping

import torch
from accelerate import Accelerator

COUNTS = ("questions", "clips", "pictures", "supervised_tokens")
MIB = 2**20
KIB_PER_MIB = 2**10


class Figures:
    """Counts of this process, made into figures of all processes when a line is logged."""

    def __init__(self) -> None:
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
    """Return the most memory held so far: of the accelerator where there is one, else resident in the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB
