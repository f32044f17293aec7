"""Answer prompts about pictures and clips: those about one clip together, behind one copy of it."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, VideoLlavaProcessor

from data.batches.pixels import MediaLoader, PixelLoader
from data.command import is_first_rank
from data.errors import MediaError, UserError
from data.media.bad_media import BadMedia
from data.media.reference import Media
from data.processor import measure_visual_tokens
from data.progress.bars import shown
from data.tokens.encoding import encode_prompt, placeholder_ids
from data.video_llava import VisualTokens
from train.answering.attention import answering_with
from train.answering.choosing import Chooser, unknown_settings
from train.answering.decoding import Answer, AnyModel, Decoding, context_of, moved
from train.answering.exchange import Exchange
from train.answering.grouping import PromptGroup, group_prompts
from train.answering.one_by_one import generate_alone, pass_by_pass, why_alone
from train.answering.sharing import shares

Prompt = tuple[list[dict], Sequence[Media]]
Decode = Callable[[Media, int], np.ndarray]
Pixels = dict[str, torch.Tensor]
MIN_KEPT_MEDIA = 8  # pictures and clips whose pixels are kept for the next group, at least


@dataclass(frozen=True)
class AnswerJob:
    """Groups of prompts, and how they are answered: see `answer_together`.

    pixels_of: the towers' inputs of some media. room: tokens of keys and values that there are at most at any time.
    """

    groups: list[PromptGroup]
    pixels_of: Callable[[Sequence[Media]], Pixels | BadMedia]
    max_new_tokens: int
    room: int
    seed: int


@dataclass(frozen=True)
class NotAsked:
    """A prompt that the model was not made for. reason: the rest of a line that begins with its name."""

    reason: str


Found = str | BadMedia | NotAsked


def answer(model: AnyModel, processor: VideoLlavaProcessor, prompts: Sequence[Prompt], **settings: Any) -> list[str]:
    """Return the model's answer to each prompt, in the order given, in this process alone; `settings` are those of
    `answer_together`.

    Raises MediaError for a picture or clip that cannot be decoded, UserError for what is longer than the model takes.
    """
    found = answer_together(model, processor, prompts, is_alone=True, **settings)
    bad = [answered for answered in found.values() if isinstance(answered, BadMedia)]
    if bad:
        raise MediaError(bad[0].reason)
    for answered in found.values():
        if isinstance(answered, NotAsked):
            raise UserError(f"the conversation {answered.reason}")
    return [str(found[number]) for number in range(len(prompts))]


def answer_together(
    model: AnyModel,
    processor: VideoLlavaProcessor,
    prompts: Sequence[Prompt],
    *,
    num_frames: int,
    max_new_tokens: int = 64,
    batch_size: int = 8,
    seed: int = 0,
    loader: MediaLoader | None = None,
    decode: Decode | None = None,
    take: Callable[[Mapping[int, Found]], None] = lambda found: None,
    stop: Callable[[], int] = lambda: 0,
    synced: bool = False,
    is_alone: bool = False,
) -> dict[int, Found]:
    """Answer (messages, media) and return answers by their prompts' indices, or why there is none: media that
    cannot be decoded, or more tokens than the model takes.

    ALL RANKS, each with the same prompts: every process answers a share, and gets all answers. synced: the weights of
    `model` are spread over the ranks (ZeRO-3, FSDP2), which must make every pass together: one that has nothing left to
    answer goes on with empty passes. Its towers must accept empty batches (`train.model.empty_towers`). `take` gets
    answers as they come, on all ranks the same; `stop` returns the number of a signal that has arrived, or 0, and
    `Stopped` is raised on all ranks at the next pass if they are synced, else after seconds. So is an error that one of
    them has met with. is_alone: other processes do not take part.

    `messages` end with the user's words; `media` are their pictures and clips in order of appearance, mixed as you
    like. Every answer is that of `generate` on its prompt alone: greedy, unless model.generation_config says otherwise;
    what is drawn depends on `seed` and the prompt, not on its company. There are never more keys and values than
    `batch_size` of the longest prompts have, each by itself. `loader` makes the towers' inputs; without one, frames
    come from `decode`, or from `data.decoding.decode.decode`.
    """
    loader = loader or PixelLoader(processor, num_frames, decode=decode)
    tokenizer, visual_tokens = processor.tokenizer, measure_visual_tokens(processor, num_frames)
    encoded = [(encode_prompt(messages, tokenizer, visual_tokens), media) for messages, media in prompts]
    lengths = [len(ids) for ids, _ in encoded]
    refused = _too_long(model, lengths, visual_tokens)
    groups = group_prompts(encoded, list(placeholder_ids(tokenizer).values()), refused)
    kinds = {item.kind for _, media in encoded for item in media}
    everything: dict[int, Found] = {}
    with shown("answering", len(encoded), "questions") as bar:

        def take_all(found: Mapping[int, Found]) -> None:
            everything.update(found)
            bar.advance(len(found))
            take(found)

        if refused:
            take_all(refused)
        exchange = Exchange(take_all, stop, synced, is_alone)
        share = shares(groups, exchange.number, max_new_tokens)[exchange.rank]
        longest = max((length for number, length in enumerate(lengths) if number not in refused), default=0)
        room = batch_size * (longest + max_new_tokens)
        pixels_of = _pixel_source(loader, max(MIN_KEPT_MEDIA, batch_size))
        job = AnswerJob(share, pixels_of, max_new_tokens, room, seed)
        _answer_share(model, tokenizer, job, exchange, loader.empty(kinds) if exchange.synced else {})
    return everything


def _too_long(model: AnyModel, lengths: Sequence[int], visual_tokens: VisualTokens) -> dict[int, NotAsked]:
    """Find prompts that leave no room for an answer in what the model was made for, as `Talker` does."""
    limit = context_of(model)
    advice = f"the model takes {limit:,}, its answer included ({visual_tokens}); shorten it, or show less"
    return {
        number: NotAsked(f"has {length:,} tokens, and {advice}")
        for number, length in enumerate(lengths)
        if length >= limit
    }


def _answer_share(
    model: AnyModel, tokenizer: PreTrainedTokenizerBase, job: AnswerJob, exchange: Exchange, no_pixels: Pixels
) -> None:
    """Answer what this process is asked, and stay with the others until all have done so."""
    no_pixels = {name: moved(model, value) for name, value in no_pixels.items()}
    try:
        with _meeting_before_passes(model, exchange, no_pixels):
            for said in answer_groups(model, job, exchange.synced):
                for number, ids in said.items():
                    exchange.found[number] = ids if isinstance(ids, BadMedia) else decoded(tokenizer, ids)
                if not exchange.synced:  # there a meeting is a pass
                    exchange.before_pass()
    except Exception as error:
        if exchange.is_over:
            raise
        exchange.error = error
    while exchange.meet(is_working=False):
        if exchange.synced:
            empty_pass(model, tokenizer.eos_token_id, no_pixels)


@contextmanager
def _meeting_before_passes(model: AnyModel, exchange: Exchange, no_pixels: Pixels) -> Iterator[None]:
    """Meet the other ranks before each pass of the model; where ranks are synced, all of them run the same towers."""

    def before(module: nn.Module, args: tuple, inputs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        exchange.before_pass()
        return args, {**no_pixels, **inputs}

    hook = model.register_forward_pre_hook(before, prepend=True, with_kwargs=True)  # before those that gather weights
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def empty_pass(model: AnyModel, token: int, no_pixels: Pixels) -> None:
    """Run the model on a token that nobody asked about, with the ranks that answer."""
    ids = moved(model, torch.tensor([[token]]))
    model(input_ids=ids, attention_mask=torch.ones_like(ids), **no_pixels, use_cache=False, logits_to_keep=1)


def answer_groups(
    model: AnyModel, job: AnswerJob, by_passes: bool = False
) -> Iterator[dict[int, list[int] | BadMedia]]:
    """Yield the ids of answers by their prompts' numbers, as they end; see `answer_together`.

    by_passes: what must be asked alone is not left to `generate`, whose passes go round a model that is spread.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    settings = base.generation_config
    assert settings is not None
    choose, max_new_tokens = Chooser(settings, job.seed), job.max_new_tokens
    reason = why_alone(model)
    if by_passes and (names := unknown_settings(settings)):
        raise UserError(f"the generation config sets {', '.join(names)}, which needs a model that is not spread")
    if reason and is_first_rank():
        print(f"notice: one question at a time, by generate: {reason}", file=sys.stderr, flush=True)
    decoding = Decoding(model, choose, max_new_tokens, job.room)
    for group in job.groups:
        members, prefix, pixels = group.members, None, None
        while members:
            num_fitting = decoding.num_fitting(len(group.prefix), prefix, members)
            if not num_fitting:
                yield from _decode(decoding, base)
                continue
            if pixels is None:
                pixels = job.pixels_of(group.media)
                if isinstance(pixels, BadMedia):
                    yield {number: pixels for number, _ in members}
                    break
            if reason or group.is_cut:
                for number, rest in members:
                    ids = np.concatenate([group.prefix, rest])
                    if by_passes:
                        yield {number: pass_by_pass(model, ids, pixels, max_new_tokens, choose)}
                    else:
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


def decoded(tokenizer: PreTrainedTokenizerBase, said: list[int]) -> str:
    """Return the words of an answer."""
    return str(tokenizer.decode(said, skip_special_tokens=True)).strip()


def _pixel_source(loader: MediaLoader, num_kept: int) -> Callable[[Sequence[Media]], Pixels | BadMedia]:
    """Return what makes the towers' inputs of some media, or tells what is wrong with the first that has none."""

    @lru_cache(maxsize=num_kept)
    def pixels_of(item: Media) -> Pixels | BadMedia:
        """Return an item's pixels, or why there are none: a clip that costs a minute is not tried for each question."""
        try:
            fitted = [loader.fitted(item)]
        except MediaError as problem:
            return BadMedia(item, (), str(problem))
        return loader.inputs(fitted, []) if item.kind == "image" else loader.inputs([], fitted)

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
