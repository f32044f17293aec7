"""Answer prompts about pictures and clips, in batches padded on the left."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import VideoLlavaProcessor

from data.batches.collator import PromptCollator
from data.batches.pixels import PixelLoader
from data.errors import MediaError
from data.media.bad_media import BadMedia
from data.media.reference import Media
from data.processor import measure_visual_tokens
from data.tokens.encoding import encode_prompt
from train.results.loading import Answering

Prompt = tuple[list[dict], Sequence[Media]]
Decode = Callable[[Media, int], np.ndarray]
MIN_KEPT_MEDIA = 8  # pictures and clips whose pixels are kept for the next question, at least


def answer(model: Answering, processor: VideoLlavaProcessor, prompts: Sequence[Prompt], **settings: Any) -> list[str]:
    """Return the model's answer to each prompt, in the order given; `settings` go to `answer_batches`.

    Raises MediaError for a picture or clip that cannot be decoded.
    """
    answers = [""] * len(prompts)
    for batch in answer_batches(model, processor, prompts, **settings):
        for index, answered in batch.items():
            if isinstance(answered, BadMedia):
                raise MediaError(answered.reason)
            answers[index] = answered
    return answers


def answer_batches(
    model: Answering,
    processor: VideoLlavaProcessor,
    prompts: Sequence[Prompt],
    *,
    num_frames: int,
    max_new_tokens: int = 64,
    batch_size: int = 8,
    decode: Decode | None = None,
    show_progress: bool = False,
) -> Iterator[dict[int, str | BadMedia]]:
    """Answer (messages, media) a batch at a time; yields, by their prompts' indices, each batch's answers, or what is
    wrong with a prompt's media.

    `messages` end with the user's words; `media` are their pictures and clips in order of appearance, mixed
    as you like over a batch. Greedy, unless model.generation_config says otherwise. `decode` is used in place of
    `data.decoding.decode.decode`.
    """
    visual_tokens = measure_visual_tokens(processor, num_frames)
    encoded = [(encode_prompt(messages, processor.tokenizer, visual_tokens), media) for messages, media in prompts]
    order = sorted(range(len(encoded)), key=lambda index: _place(*encoded[index]))

    collate = PromptCollator(processor, num_frames)
    load_pixels = PixelLoader(processor, num_frames, decode=decode)

    @lru_cache(maxsize=max(MIN_KEPT_MEDIA, batch_size))
    def pixels_of(item: Media) -> dict[str, torch.Tensor] | BadMedia:
        """Return an item's pixels, or why there are none: a clip that costs a minute is not tried for each question."""
        try:
            return load_pixels([item])
        except MediaError as problem:
            return BadMedia(item, (), str(problem))

    with tqdm(total=len(encoded), unit="question", disable=not show_progress) as progress:
        for start in range(0, len(order), batch_size):
            answers: dict[int, str | BadMedia] = {}
            chosen, pixels = [], []
            for index in order[start : start + batch_size]:
                found = [pixels_of(item) for item in encoded[index][1]]
                if bad := [each for each in found if isinstance(each, BadMedia)]:
                    answers[index] = bad[0]
                else:
                    chosen.append(index)
                    pixels += found
            if chosen:
                inputs = collate([(encoded[index][0], ()) for index in chosen]) | _joined(pixels)
                answers |= zip(chosen, _generate(model, processor, inputs, max_new_tokens), strict=True)
            yield answers
            progress.update(min(batch_size, len(order) - start))


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
