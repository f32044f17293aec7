"""Answer prompts about pictures and clips, in batches padded on the left."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import VideoLlavaProcessor

from data.batches.collator import PromptCollator
from data.media.reference import Media
from data.processor import measure_visual_tokens
from data.tokens.encoding import encode_prompt
from train.results.loading import Answering

Prompt = tuple[list[dict], Sequence[Media]]
MIN_KEPT_MEDIA = 8  # pictures and clips whose pixels are kept for the next question, at least


def answer(
    model: Answering,
    processor: VideoLlavaProcessor,
    prompts: Sequence[Prompt],
    *,
    num_frames: int,
    max_new_tokens: int = 64,
    batch_size: int = 8,
    show_progress: bool = False,
) -> list[str]:
    """Return the model's answer to each (messages, media), in the order given.

    `messages` end with the user's words; `media` are their pictures and clips in order of appearance, mixed
    as you like over a batch. Greedy, unless model.generation_config says otherwise. UserError names a bad file.
    """
    visual_tokens = measure_visual_tokens(processor, num_frames)
    encoded = [(encode_prompt(messages, processor.tokenizer, visual_tokens), media) for messages, media in prompts]
    order = sorted(range(len(encoded)), key=lambda index: _place(*encoded[index]))

    collate = PromptCollator(processor, num_frames)

    @lru_cache(maxsize=max(MIN_KEPT_MEDIA, batch_size))
    def pixels_of(item: Media) -> dict[str, torch.Tensor]:
        return collate.load_pixels([item])

    answers = [""] * len(encoded)
    with tqdm(total=len(encoded), unit="question", disable=not show_progress) as progress:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            inputs = collate([(encoded[index][0], ()) for index in chosen])
            inputs |= _joined(pixels_of(item) for index in chosen for item in encoded[index][1])
            texts = _generate(model, processor, inputs, max_new_tokens)
            for index, text in zip(chosen, texts, strict=True):
                answers[index] = text
            progress.update(len(chosen))
    return answers


def _place(ids: np.ndarray, media: Sequence[Media]) -> tuple:
    """Return a key to sort prompts by.

    Most clips come first, so that a batch needs little padding and a lack of memory shows at once; questions about
    the same media stand one behind the other, so that these are decoded once.
    """
    num_clips = sum(item.kind == "video" for item in media)
    return (-num_clips, -len(media), [item.path for item in media], -len(ids))


def _joined(pixels: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Join several dictionaries, their values along the first dimension."""
    values: dict[str, list[torch.Tensor]] = {}
    for one in pixels:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: torch.cat(parts) for name, parts in values.items()}


@torch.inference_mode()
def _generate(model: Answering, processor: VideoLlavaProcessor, inputs: dict, max_new_tokens: int) -> list[str]:
    inputs = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    generate: Any = model.generate  # its stub wants a class that no model is
    ids = generate(**inputs, max_new_tokens=max_new_tokens)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]


def media_in(messages: Sequence[dict], media: Sequence[Media]) -> Sequence[Media]:
    """Return those of a conversation's `media` that its first `messages` show."""
    return media[: sum(part["type"] != "text" for message in messages for part in message["content"])]
