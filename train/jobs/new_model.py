"""A Video-LLaVA made of random weights or pretrained parts."""

from pathlib import Path

import torch
from transformers import VideoLlavaProcessor

from data.errors import visible
from data.processor_files import save_processor
from train.merging.layout import layout_of
from train.merging.merge import complete_folder, refuse_to_overwrite
from train.merging.writing import write_model
from train.model.bare import bare_model
from train.model.build import config_and_processor
from train.model.load import quiet_libraries
from train.model.pretrained_parts import model_from_parts
from train.model.random_weights import RandomWeights
from train.results.loading import greedy

SHARD_SIZE = "2GB"  # so that loading 7b in 4 bits holds little more than what it becomes


def make_model(
    out: Path,
    shape: str | None,
    vision: str | None,
    text: str | None,
    dtype_name: str,
    seed: int,
    video_vision: str | None = None,
) -> None:
    """Write a model of a shape, or of vision and text checkpoints, with its processor; complete or not at all.

    A model of a shape is drawn and written one tensor at a time.
    """
    quiet_libraries()
    refuse_to_overwrite(out)
    dtype = getattr(torch, dtype_name)
    with complete_folder(out) as folder:
        if shape is not None:
            num_parameters, processor = _write_random(folder, shape, dtype, seed)
            notices = []
        else:
            assert vision is not None and text is not None
            model, processor, notices = model_from_parts(vision, text, dtype, seed, video_vision)
            num_parameters = model.num_parameters()
            model.generation_config = greedy(processor.tokenizer)  # it answers with transformers alone as with us
            model.save_pretrained(folder)
        save_processor(processor, folder)
    for line in notices:
        print(visible(line))
    print(f"{out}: {num_parameters:,} parameters in {dtype_name}, {len(processor.tokenizer):,} tokens")


def _write_random(folder: Path, shape: str, dtype: torch.dtype, seed: int) -> tuple[int, VideoLlavaProcessor]:
    """Write the weights of a shape; returns their number, and the processor."""
    config, processor = config_and_processor(shape)
    model = bare_model(config)
    write_model(
        folder,
        model,
        layout_of(model),
        RandomWeights(model, seed),
        dtype=dtype,
        max_shard_size=SHARD_SIZE,
        generation=greedy(processor.tokenizer),
        doing="drawing weights",
    )
    return model.num_parameters(), processor
