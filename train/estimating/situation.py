"""A recipe and what there is on this machine -> the situation that is counted: base, data, largest row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers import TrainingArguments, VideoLlavaProcessor

from data.errors import UserError, many
from data.packing.layout import RowLayout
from data.packing.rank_sampler import num_micro_batches
from data.packing.rows import PlannedRows, Row
from data.processor import load_config, max_positions, measure_visual_tokens, set_up_processor
from data.tokens.new_tokens import add_new_tokens
from data.video_llava import VisualTokens, empty_pixels
from train.estimating.ledger import attention_flops
from train.estimating.model_shapes import feature_layers
from train.estimating.need import Situation
from train.estimating.rows import BlankMedia, assumed_rows, collate
from train.loop.rows import RowReader
from train.model.build import SHAPES, WORDS, build_config, build_processor, train_tokenizer
from train.recipe.recipe import Recipe
from train.recipe.training_arguments import build_training_arguments, device_defaults

# Models whose published config.json has the sizes of one of `train.model.build.SHAPES`:
# https://huggingface.co/LanguageBind/Video-LLaVA-7B-hf/blob/main/config.json
PUBLISHED = {"LanguageBind/Video-LLaVA-7B-hf": "7b"}


@dataclass(frozen=True)
class BaseFacts:
    """A recipe's base without its weights. is_here: its own files say so, not what was published."""

    config: Any
    processor: VideoLlavaProcessor
    visual_tokens: VisualTokens
    token_ids: Sequence[int]
    is_here: bool


@dataclass(frozen=True)
class RowsOfData:
    """The rows of an epoch. largest: the micro-batch of the largest; share: of its tokens that the mean one has."""

    largest: Sequence[Row]
    number: int | None
    share: float


def base_here(
    recipe: Recipe, processor: VideoLlavaProcessor, visual_tokens: VisualTokens, token_ids: Sequence[int]
) -> BaseFacts:
    """Return a base whose processor is loaded already."""
    config = load_config(recipe.model.name_or_path, recipe.model.revision)
    return BaseFacts(config, processor, visual_tokens, token_ids, is_here=True)


def look_at_base(recipe: Recipe) -> BaseFacts:
    """Read config and processor. Raises UserError where neither they nor a published geometry are at hand."""
    name, revision, num_frames = recipe.model.name_or_path, recipe.model.revision, recipe.data.num_frames
    try:
        processor, visual_tokens, _ = set_up_processor(name, revision, num_frames=num_frames)
    except UserError as problem:
        if name not in PUBLISHED:
            raise UserError(f"{problem}; without its config nothing can be counted") from problem
        tokenizer, shape = train_tokenizer([WORDS]), PUBLISHED[name]
        config, processor = build_config(shape, tokenizer, num_frames), build_processor(tokenizer, SHAPES[shape].edge)
        visual_tokens = measure_visual_tokens(processor, num_frames)
        base = BaseFacts(config, processor, visual_tokens, (), is_here=False)
    else:
        base = base_here(recipe, processor, visual_tokens, ())
    return replace(base, token_ids=add_new_tokens(processor, recipe.model.add_tokens))


def look_at_data(recipe: Recipe, base: BaseFacts, seed: int) -> RowsOfData | str:
    """Return the rows of the recipe's data, or why they are not known."""
    if not base.is_here:
        return "without the base's tokenizer their tokens cannot be counted"
    if recipe.data.streaming:
        return "they are read while training"
    limit = max_positions(recipe.model.name_or_path, recipe.model.revision)
    try:
        rows = RowReader(recipe.data, base.processor.tokenizer, base.visual_tokens, seed, limit).train_rows()
    except UserError as problem:
        return str(problem)
    return largest_rows(recipe, cast("PlannedRows", rows))


def largest_rows(recipe: Recipe, rows: PlannedRows) -> RowsOfData:
    """Return the micro-batch of the rows with most tokens."""
    plans = list(rows.rows(0))
    lengths = [rows.num_tokens(plan) for plan in plans]
    order = sorted(range(len(plans)), key=lengths.__getitem__, reverse=True)
    chosen = order[: batch_size(recipe)]
    largest = [row for number in chosen if (row := rows[plans[number]]) is not None]
    return RowsOfData(largest, len(rows), sum(lengths) / len(lengths) / lengths[order[0]])


def assumed(recipe: Recipe, base: BaseFacts, questions: int | None) -> RowsOfData:
    """Return rows as large as the recipe lets them be."""
    rows = assumed_rows(recipe.data, base.processor, base.visual_tokens, questions, batch_size(recipe))
    return RowsOfData(rows, None, 1.0)


def batch_size(recipe: Recipe) -> int:
    """Return how many rows a micro-batch has: a step may have fewer than a batch could."""
    return min(recipe.training["per_device_train_batch_size"], recipe.data.rows_per_step)


def situation(
    recipe: Recipe, base: BaseFacts, rows: RowsOfData, on_gpu: bool, args: TrainingArguments | None = None
) -> Situation:
    """Return what `train.estimating.need.count` counts. args: of the run that is beginning; None: of one process."""
    section = recipe.training
    num_processes = args.world_size if args else 1
    return Situation(
        config=base.config,
        make_batch=_batch_maker(recipe, base, rows.largest),
        args=args or build_training_arguments({**device_defaults(recipe.model.dtype), **section}),
        on_gpu=on_gpu,
        micro_batches=num_micro_batches(
            recipe.data.rows_per_step, section["per_device_train_batch_size"], num_processes
        ),
        num_processes=num_processes,
        token_ids=base.token_ids,
        attention_flops=_attention_work(recipe, base, rows.largest),
    )


def _attention_work(recipe: Recipe, base: BaseFacts, rows: Sequence[Row]) -> int:
    """Return the FLOPs of the decoder's attention, forward and twice that backward, once more recomputed in full."""
    layout = RowLayout(tuple(group.shape for row in rows for group, _ in row))
    times = 4 if recipe.recomputation == "full" else 3
    text = base.config.text_config
    return times * attention_flops(layout, text.hidden_size, text.num_hidden_layers)


def _batch_maker(recipe: Recipe, base: BaseFacts, rows: Sequence[Row]) -> Callable[[], dict[str, Any]]:
    pixels = empty_pixels(base.processor, ("video",), recipe.data.num_frames)["pixel_values_videos"]
    media = BlankMedia(tuple(pixels.shape[2:]), recipe.data.num_frames)  # bytes, see `data.batches.byte_pixels`
    if recipe.data.feature_cache:
        layers, tokens = feature_layers(base.config)[0], measure_visual_tokens(base.processor, 1).video
        shape = len(layers), tokens, base.config.vision_config.hidden_size
        media = replace(media, shape=shape, dtype=getattr(torch, recipe.model.dtype))
    return lambda: collate(rows, recipe.data, base.processor, base.visual_tokens, media)


def describe_row(rows: RowsOfData, visual_tokens: VisualTokens) -> str:
    """Return what is in a micro-batch, in words."""
    groups = [(group, samples) for row in rows.largest for group, samples in row]
    media = [item.kind for _, samples in groups for item in samples[0].media]
    questions = sum(len(samples) for _, samples in groups)
    tokens = sum(sum(group.shape[1]) + group.shape[0] for group, _ in groups)
    clips, pictures = media.count("video"), media.count("image")
    parts = [many(number, noun) for number, noun in ((clips, "clip"), (pictures, "picture")) if number]
    return f"{', '.join([*parts, many(questions, 'conversation')])}, {tokens:,} tokens"
