"""Foresight about memory, before training loads the weights: whether they fit, and what layers recompute."""

from typing import cast

from transformers import TrainingArguments

from data.errors import UserError, first_line
from data.packing.rows import PlannedRows, Rows
from train.estimating.fit import least_recomputation
from train.estimating.gpus import Gpu, gpu_at_hand, this_machine
from train.estimating.need import Need, count
from train.estimating.report import one_line
from train.estimating.situation import BaseFacts, RowsOfData, assumed, largest_rows, situation
from train.ranks.agreement import on_first_rank
from train.ranks.processes import holds_whole_model
from train.recipe.recipe import Recipe
from train.recipe.recomputation import VALUES, Recomputation

# An estimate is no reason to end a run: these say that one cannot be made.
UNKNOWN = (UserError, RuntimeError)
SPREAD = "memory: auto: no estimate knows how weights are spread over processes; layers are recomputed in full"


def foresee_memory(
    recipe: Recipe, base: BaseFacts, rows: Rows, args: TrainingArguments
) -> tuple[Recomputation, list[str]]:
    """Return what to recompute, and lines about it; without a GPU that holds the whole model only where the recipe
    leaves it open. ALL RANKS."""
    gpu, is_open = gpu_at_hand(), recipe.memory == "auto"
    if not holds_whole_model():
        return ("full", [SPREAD]) if is_open else (recipe.recomputation, [])
    if is_open:
        return on_first_rank(chosen, recipe, base, rows, args, gpu)
    return recipe.recomputation, [] if gpu is None else [on_first_rank(foreseen, recipe, base, rows, args, gpu)]


def chosen(
    recipe: Recipe, base: BaseFacts, rows: Rows, args: TrainingArguments, gpu: Gpu | None
) -> tuple[Recomputation, list[str]]:
    """Return the least recomputation that fits a GPU, or this machine where there is none, and lines about it."""
    place = gpu or this_machine()
    try:
        known = rows_of(recipe, base, rows)

        def need_of(tried: Recipe) -> Need:
            return count(tried, situation(tried, base, known, on_gpu=gpu is not None, args=args))

        wanted, need = least_recomputation(recipe, need_of, place)
    except UNKNOWN as problem:
        return "full", [f"memory: not estimated: {first_line(problem)}; layers are recomputed in full"]
    value = str(VALUES[wanted]).lower()
    return wanted, [f"memory: auto takes training.gradient_checkpointing: {value}", one_line(need, place)]


def foreseen(recipe: Recipe, base: BaseFacts, rows: Rows, args: TrainingArguments, gpu: Gpu) -> str:
    """Return the line about what is recomputed as the recipe says."""
    try:
        known = rows_of(recipe, base, rows)
        return one_line(count(recipe, situation(recipe, base, known, on_gpu=True, args=args)), gpu)
    except UNKNOWN as problem:
        return f"memory: not estimated: {first_line(problem)}"


def rows_of(recipe: Recipe, base: BaseFacts, rows: Rows) -> RowsOfData:
    """Return the largest rows that the run will meet, as far as they are known."""
    return assumed(recipe, base, None) if recipe.data.streaming else largest_rows(recipe, cast("PlannedRows", rows))
