"""Work on many files that may hang, crash or eat all memory, in several processes that are replaced when they end."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data.isolation.child_process import ChildProcess, wait_for_any

WAITING = -1  # the number of a process that has not been given a job


@dataclass(frozen=True)
class Outcome:
    """The result of `function` for jobs[job], or why there is none: `failure`, a line for the user."""

    job: int
    result: Any = None
    failure: str | None = None


def run_in_pool(
    function: Callable[[Any], Any], jobs: Sequence[Any], *, num_workers: int, seconds: float, memory: int
) -> Iterator[Outcome]:
    """Run function(job) for every job, each in one of `num_workers` processes; yield outcomes as they come, one a job.

    function, seconds and memory: see `ChildProcess`.
    """
    pending = deque(range(len(jobs)))
    numbers: dict[ChildProcess, int] = {}  # of the jobs that the processes have been given last
    try:
        while pending or numbers:
            # A process that works is not counted on for the jobs that wait: each of these may have its own.
            while len(numbers) < min(num_workers, len(pending) + sum(map(WAITING.__lt__, numbers.values()))):
                numbers[ChildProcess(function, seconds, memory)] = WAITING
            wait_for_any(numbers)
            for process in list(numbers):
                if answer := process.answer():
                    yield Outcome(numbers[process], answer.result, answer.failure)
                if process.is_ready and pending:
                    numbers[process] = pending.popleft()
                    process.give(jobs[numbers[process]])
                elif not process.is_busy:
                    process.end()
                    del numbers[process]
    finally:
        for process in numbers:
            process.end()
