"""The number of data loader workers, from how long the data of a row take here, and training on it."""

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any, cast

import torch
from transformers import TrainingArguments

from data.batches.byte_pixels import as_bytes
from data.batches.collator import COLLATORS
from data.command import num_cores, num_processes_here
from data.packing.rows import PlannedRows, Rows
from train.estimating.foresight import UNKNOWN, rows_of
from train.estimating.gpus import Gpu, gpu_at_hand, seconds, this_machine
from train.estimating.need import count
from train.estimating.situation import BaseFacts, situation
from train.loop.tower_inputs import pixel_loader
from train.ranks.agreement import on_first_rank
from train.recipe.recipe import Recipe

NUM_MADE = 4  # rows whose data are made for a try; the first one starts the decoder
HEADROOM = 2  # the time of a step is right within this factor (docs/estimate.md); a worker too many costs little
UNMEASURED = 4  # workers where nothing is known: as the recipes for a GPU have it
# Large enough to keep a CPU's cores busy, small enough to take some hundredths of a second.
PRODUCT, COPIED, NUM_TIMES = 1024, 2**24, 3  # rows of a matrix, numbers (float32), and how often each is done


def size_workers(recipe: Recipe, base: BaseFacts, rows: Rows, args: TrainingArguments) -> list[str]:
    """Set how many workers each process has where the recipe leaves it open, and return a line about it. ALL RANKS.

    Rows are the same, in the same order, whatever their number is.
    """
    if not recipe.sizes_workers:
        return []

    def choose() -> tuple[int, str]:
        most = most_workers(num_cores(), num_processes_here())
        if recipe.data.streaming:
            return few(most, "a stream is not known before it is read")
        training = seconds_to_train(recipe, base, rows, args)
        if training is None:
            return few(most, "how long a step takes is not known")
        return enough(seconds_to_make(recipe, base, cast(PlannedRows, rows), most), training, most)

    args.dataloader_num_workers, line = on_first_rank(choose)
    return [line]


def most_workers(cores: int, num_processes: int) -> int:
    """Return how many workers of each process have a core of their own, beside the process itself; at least one."""
    return max(1, cores // num_processes - 1)


def few(most: int, reason: str) -> tuple[int, str]:
    number = min(UNMEASURED, most)
    return number, f"workers: auto takes {number}: {reason}"


def enough(making: float, training: float, most: int) -> tuple[int, str]:
    """Return how many workers keep up, and a line about it.

    making: seconds of one worker for the data of a row; training: those of a step for a row, roughly.
    """
    number = min(most, max(1, math.ceil(HEADROOM * making / training)))
    return number, f"workers: auto takes {number}: a row's data take {making:.2f} s, training about {training:.2f} s"


def seconds_to_make(recipe: Recipe, base: BaseFacts, rows: PlannedRows, num_workers: int) -> float:
    """Return how long a worker takes for the data of a row: the median of some that are spread over an epoch."""
    pixels = as_bytes(pixel_loader(recipe.data, base.processor, num_workers))
    collate: Callable[..., dict[str, Any]] = COLLATORS[recipe.data.packing](
        base.processor, base.visual_tokens, (), pixels
    )
    plans = rows.rows(0)
    number = min(NUM_MADE, len(plans))
    taken = []
    for plan in (plans[len(plans) * place // number] for place in range(number)):
        start = time.perf_counter()
        row = rows[plan]
        collate([] if row is None else [row])
        taken.append(time.perf_counter() - start)
    return median(taken[1:] or taken)


def seconds_to_train(recipe: Recipe, base: BaseFacts, rows: Rows, args: TrainingArguments) -> float | None:
    """Return how long a step takes for a mean row, by the estimate; None where there is none."""
    gpu = gpu_at_hand()
    try:
        known = rows_of(recipe, base, rows)
        need = count(recipe, situation(recipe, base, known, on_gpu=gpu is not None, args=args))
    except UNKNOWN:
        return None
    of_batch = seconds(need, gpu or this_cpu(), recipe.model.quantization is not None)
    return None if of_batch is None else of_batch * known.share / len(known.largest)


def this_cpu() -> Gpu:
    """Return this machine with the speeds that its CPU is seen to have, as if it were a GPU."""
    matrix, numbers = torch.ones(PRODUCT, PRODUCT), torch.ones(COPIED)
    flops = 2 * PRODUCT**3 / _fastest(lambda: matrix @ matrix)
    moved = 2 * numbers.nbytes / _fastest(numbers.clone)
    machine = this_machine()
    return Gpu(machine.name, machine.memory, flops / 1e12, moved / 1e9)


def _fastest(function: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some calls."""
    taken = []
    for _ in range(NUM_TIMES):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)
