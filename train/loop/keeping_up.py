"""A line about the workers of the data loader: whether they keep up with training, and how many would."""

import logging
import math
import time
from collections.abc import Callable

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.command import num_cores, num_processes_here

# The steps that are measured. The one before them warms up, and finds batches that were made during the start.
NUM_STEPS = 5
SHORTEST_STEP = 0.01  # seconds: what is shorter says nothing
HUNDRED = 99.995  # seconds, with two digits behind the point
NEGLIGIBLE = 0.01  # share of a step: data that are made in less need no worker

logger = logging.getLogger(__name__)


class KeepingUp(TrainerCallback):
    """Told by the trainer how long batches took to make, it compares that with how long they take to train on.

    clock: seconds. Evaluations and checkpoints, which lie between steps, are not counted.
    """

    def __init__(self, num_workers: int, clock: Callable[[], float] = time.perf_counter):
        self.num_workers, self.clock = num_workers, clock
        self._num_steps = 0  # of this process
        self._making = self._training = 0.0  # seconds of the steps that are measured
        self._begun = self._to_make = 0.0  # of this step

    def begin_step(self, to_make: float) -> None:
        """Take the seconds that workers spent on the batches of the step that begins, all together."""
        self._to_make, self._begun = to_make, self.clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if 0 < self._num_steps <= NUM_STEPS:
            self._making += self._to_make
            self._training += self.clock() - self._begun
        self._num_steps += 1
        if self._num_steps == NUM_STEPS + 1 and state.is_world_process_zero:
            num_free = num_cores() // num_processes_here()
            line = keeping_up_line(self.num_workers, self._making / NUM_STEPS, self._training / NUM_STEPS, num_free)
            logger.info(line)


def keeping_up_line(num_workers: int, making: float, training: float, num_free: int) -> str:
    """Return a line of at most 80 columns.

    making: seconds of a worker that the data of a step take; training: those of the step itself, without waiting.
    num_free: cores for the workers of one rank; more workers than that gain little.
    """
    needed = max(1, math.ceil(making / max(training, SHORTEST_STEP)))
    took = f"a step {_seconds(training)}, its data {_seconds(making)}"
    if not num_workers and making < NEGLIGIBLE * training:
        return f"      no worker is needed: {took}"
    if needed <= num_workers:
        return f"      {num_workers} worker{' keeps' if num_workers == 1 else 's keep'} up: {took}"
    behind = f"{num_workers} worker{' does' if num_workers == 1 else 's do'} not keep up"
    if needed > max(1, num_free):
        return f"      {behind}: {needed} on more cores would, or data.frame_cache"
    return f"      {behind}, {needed} would: {took}"


def _seconds(number: float) -> str:
    return f"{number:.2f} s" if number < HUNDRED else f"{number:,.0f} s"
