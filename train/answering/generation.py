"""Answer prompts about pictures and clips: those about one clip together, behind one copy of it."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, VideoLlavaProcessor

from data.batches.pixels import PixelLoader
from data.errors import MediaError
from data.media.bad_media import BadMedia
from data.media.reference import Media
from data.processor import measure_visual_tokens
from data.progress.bars import shown
from data.tokens.encoding import encode_prompt, placeholder_ids
from train.answering.attention import answering_with
from train.answering.choosing import Chooser
from train.answering.decoding import Answer, Answering, Decoding
from train.answering.grouping import PromptGroup, group_prompts
from train.answering.one_by_one import generate_alone, why_alone

Prompt = tuple[list[dict], Sequence[Media]]
Decode = Callable[[Media, int], np.ndarray]
Pixels = dict[str, torch.Tensor]
MIN_KEPT_MEDIA = 8  # pictures and clips whose pixels are kept for the next group, at least


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
    seed: int = 0,
    decode: Decode | None = None,
) -> Iterator[dict[int, str | BadMedia]]:
    """Answer (messages, media); yields answers as they come, by their prompts' indices, or what is wrong with a
    prompt's media.

    `messages` end with the user's words; `media` are their pictures and clips in order of appearance, mixed as you
    like. Every answer is that of `generate` on its prompt alone: greedy, unless model.generation_config says otherwise;
    what is drawn depends on `seed` and the prompt, not on its company. There are never more keys and values than
    `batch_size` of the longest prompts have, each by itself. `decode` is used in place of
    `data.decoding.decode.decode`.
    """
    visual_tokens = measure_visual_tokens(processor, num_frames)
    tokenizer = processor.tokenizer
    encoded = [(encode_prompt(messages, tokenizer, visual_tokens), media) for messages, media in prompts]
    groups = group_prompts(encoded, list(placeholder_ids(tokenizer).values()))
    pixels_of = _pixel_source(PixelLoader(processor, num_frames, decode=decode), max(MIN_KEPT_MEDIA, batch_size))
    longest = max((len(ids) for ids, _ in encoded), default=0)
    room = batch_size * (longest + max_new_tokens)
    found = answer_groups(model, groups, pixels_of, max_new_tokens, room, seed)
    with shown("answering", len(encoded), "questions") as bar:
        for some in found:
            yield {
                number: said if isinstance(said, BadMedia) else tokenizer.decode(said, skip_special_tokens=True).strip()
                for number, said in some.items()
            }
            bar.advance(len(some))


def answer_groups(
    model: Answering,
    groups: Iterable[PromptGroup],
    pixels_of: Callable[[Sequence[Media]], Pixels | BadMedia],
    max_new_tokens: int,
    room: int,
    seed: int,
) -> Iterator[dict[int, list[int] | BadMedia]]:
    """Yield the ids of answers by their prompts' numbers, as they end; see `answer_batches`.

    pixels_of: the towers' inputs of some media. room: tokens of keys and values that there are at most at any time.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    settings = base.generation_config
    assert settings is not None
    choose = Chooser(settings, seed)
    reason = why_alone(model)
    if reason:
        print(f"notice: one question at a time, by generate: {reason}", file=sys.stderr, flush=True)
    decoding = Decoding(model, choose, max_new_tokens, room)
    for group in groups:
        members, prefix, pixels = group.members, None, None
        while members:
            num_fitting = decoding.num_fitting(len(group.prefix), prefix, members)
            if not num_fitting:
                yield from _decode(decoding, base)
                continue
            if pixels is None:
                pixels = pixels_of(group.media)
                if isinstance(pixels, BadMedia):
                    yield {number: pixels for number, _ in members}
                    break
            if reason or group.is_cut:
                for number, rest in members:
                    ids = np.concatenate([group.prefix, rest])
                    yield {number: generate_alone(model, ids, pixels, max_new_tokens, choose.seed_of(ids))}
                break
            with answering_with(base):
                prefix = prefix or decoding.prefill(group.prefix, pixels)
            decoding.add(prefix, members[:num_fitting])
            members = members[num_fitting:]
    while decoding.answers:
        yield from _decode(decoding, base)


def _decode(decoding: Decoding, base: PreTrainedModel) -> Iterator[dict[int, list[int] | BadMedia]]:
    """Decode until an answer ends, and yield what does. Then the model is as it was: who takes it may stop there."""
    ended: list[Answer] = []
    with answering_with(base):
        while not ended:
            ended = decoding.step()
    yield {answer.number: answer.said for answer in ended}


def _pixel_source(load: PixelLoader, num_kept: int) -> Callable[[Sequence[Media]], Pixels | BadMedia]:
    """Return what makes the towers' inputs of some media, or tells what is wrong with the first that has none."""

    @lru_cache(maxsize=num_kept)
    def pixels_of(item: Media) -> Pixels | BadMedia:
        """Return an item's pixels, or why there are none: a clip that costs a minute is not tried for each question."""
        try:
            return load([item])
        except MediaError as problem:
            return BadMedia(item, (), str(problem))

    def pixels_of_all(media: Sequence[Media]) -> Pixels | BadMedia:
        found = [pixels_of(item) for item in media]
        bad = [each for each in found if isinstance(each, BadMedia)]
        return bad[0] if bad else _joined(each for each in found if not isinstance(each, BadMedia))

    return pixels_of_all


def _joined(pixels: Iterable[Mapping[str, torch.Tensor]]) -> Pixels:
    """Join several dictionaries, their values along the first dimension."""
    values: dict[str, list[torch.Tensor]] = {}
    for one in pixels:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: torch.cat(parts) for name, parts in values.items()}


def media_in(messages: Sequence[dict], media: Sequence[Media]) -> Sequence[Media]:
    """Return those of a conversation's `media` that its first `messages` show."""
    return media[: sum(part["type"] != "text" for message in messages for part in message["content"])]
