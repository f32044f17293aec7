"""The line about memory that training says before it loads the weights."""

from collections.abc import Sequence
from typing import cast

from transformers import TrainingArguments, VideoLlavaProcessor

from data.errors import UserError, first_line
from data.packing.rows import PlannedRows, Rows
from data.processor import load_config
from data.video_llava import VisualTokens
from train.estimating.gpus import Gpu, gpu_at_hand
from train.estimating.need import count
from train.estimating.report import one_line
from train.estimating.situation import Base, assumed, largest_rows, situation
from train.ranks.agreement import on_first_rank
from train.ranks.processes import holds_whole_model
from train.recipe.recipe import Recipe


def foresee_memory(
    recipe: Recipe,
    processor: VideoLlavaProcessor,
    visual_tokens: VisualTokens,
    token_ids: Sequence[int],
    rows: Rows,
    args: TrainingArguments,
) -> list[str]:
    """Return a line where a GPU holds the whole model, else none. ALL RANKS."""
    gpu = gpu_at_hand()
    if gpu is None or not holds_whole_model():
        return []

    def foresee() -> str:
        config = load_config(recipe.model.name_or_path, recipe.model.revision)
        return foreseen(recipe, Base(config, processor, visual_tokens, token_ids, is_here=True), rows, args, gpu)

    return [on_first_rank(foresee)]


def foreseen(recipe: Recipe, base: Base, rows: Rows, args: TrainingArguments, gpu: Gpu) -> str:
    """Return the line. An operation that needs numbers is no reason to end a run: the line says so."""
    try:
        known = (
            assumed(recipe, base, None) if recipe.data.streaming else largest_rows(recipe, cast("PlannedRows", rows))
        )
        return one_line(count(recipe, situation(recipe, base, known, on_gpu=True, args=args)), gpu)
    except (UserError, RuntimeError) as problem:
        return f"memory: not estimated: {first_line(problem)}"
