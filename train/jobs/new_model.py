"""A Video-LLaVA made of random weights or pretrained parts."""

from pathlib import Path

import torch

from data.errors import UserError, visible
from data.processor_files import save_processor
from train.model.build import random_model
from train.model.load import quiet_libraries
from train.model.pretrained_parts import model_from_parts
from train.results.loading import greedy


def make_model(
    out: Path,
    shape: str | None,
    vision: str | None,
    text: str | None,
    dtype_name: str,
    seed: int,
    video_vision: str | None = None,
) -> None:
    """Write a model of a shape, or of vision and text checkpoints, with its processor."""
    quiet_libraries()
    if (out / "config.json").exists():
        raise UserError(f"--out {out}: there is a model already; choose a new folder")
    dtype, notices = getattr(torch, dtype_name), []
    if shape is not None:
        model, processor = random_model(shape, dtype, seed)
    else:
        assert vision is not None and text is not None
        model, processor, notices = model_from_parts(vision, text, dtype, seed, video_vision)
    model.generation_config = greedy(processor.tokenizer)  # it answers with transformers alone as it does with us
    model.save_pretrained(out)
    save_processor(processor, out)
    for line in notices:
        print(visible(line))
    print(f"{out}: {model.num_parameters():,} parameters in {dtype_name}, "
          f"{len(processor.tokenizer):,} tokens")  # fmt: skip
