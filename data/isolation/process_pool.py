"""Work on many files that may hang, crash or eat all memory, in several processes that are watched and replaced."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data.isolation.child_process import ChildProcess, wait_for_any


@dataclass(frozen=True)
class Outcome:
    """What `function` returned for jobs[job], or why there is nothing: `failure`, a line for the user."""

    job: int
    result: Any = None
    failure: str | None = None


def run_in_pool(
    function: Callable[[Any], Any], jobs: Sequence[Any], *, num_workers: int, seconds: float, memory: int
) -> Iterator[Outcome]:
    """function(job) for every job, each in one of `num_workers` processes; outcomes as they come, one a job.

    function, seconds and memory: as of `ChildProcess`.
    """
    pending, workers = deque(range(len(jobs))), {}  # worker -> the number of its job
    try:
        while pending or workers:
            while len(workers) < min(num_workers, len(pending) + sum(worker.is_busy for worker in workers)):
                workers[ChildProcess(function, seconds, memory)] = None
            wait_for_any(workers)
            for worker in list(workers):
                if answer := worker.answer():
                    yield Outcome(workers[worker], answer.result, answer.failure)
                if worker.is_ready and pending:
                    workers[worker] = pending.popleft()
                    worker.give(jobs[workers[worker]])
                elif not worker.is_busy:
                    worker.end()
                    del workers[worker]
    finally:
        for worker in workers:
            worker.end()
