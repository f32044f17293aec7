"""A model that is talked to: prompts, what is known of them already, and answers word by word."""

import logging
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftModel
from transformers import VideoLlavaProcessor

from data.batches.pixels import PixelLoader
from data.decoding.decode import decode
from data.errors import OutageError, UserError, one_line
from data.media.frame_sampling import UNIFORM, FrameSampling
from data.media.reference import Media
from data.processor import measure_visual_tokens
from data.sources.parts import check_text
from data.tokens.encoding import encode_prompt, placeholder_ids
from data.tokens.special import refuse_special_tokens, special_finder
from train.answering.attention import SHARED_ANSWERS
from train.answering.choosing import Chooser, ends_of
from train.answering.decoding import Answer, AnyModel, Decoding, context_of
from train.answering.generation import Decode
from train.answering.one_by_one import generate_alone, why_alone
from train.answering.states import Prefix
from train.talking.frames import Frames, key_of
from train.talking.prefixes import PrefixStore, Prompt
from train.talking.sampling import Sampling
from train.talking.words import Words

logger = logging.getLogger(__name__)

Finish = Literal["stop", "length"]
GIB = 2**30
DEFAULT_BYTES = 4 * GIB  # of keys and values: those of a clip are 1 GiB for 7 billion parameters in bfloat16


class TooLong(UserError):
    """A conversation of more tokens than the model takes."""


class Talker:
    """A model, its processor, and the keys and values of the last conversations.

    num_frames: of a clip, chosen as `frame_sampling` says. decode: makes the pixels of a picture or clip. max_bytes: of
    keys and values that are kept. max_context: tokens of a conversation, its last answer included; None takes what the
    model was made for. key: tells pictures and clips apart. The model is this one's own: its decoder attends as answers
    need it.
    """

    def __init__(
        self,
        model: AnyModel,
        processor: VideoLlavaProcessor,
        *,
        num_frames: int,
        frame_sampling: FrameSampling = UNIFORM,
        decode: Decode = decode,
        max_bytes: int = DEFAULT_BYTES,
        max_context: int | None = None,
        key: Callable[[Media], Hashable] = key_of,
    ):
        self.model, self.processor, self.key = model, processor, key
        self.num_frames, self.frame_sampling, self._decode = num_frames, frame_sampling, decode
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.max_context: int = max_context or context_of(model)
        self.visual_tokens = measure_visual_tokens(processor, num_frames)
        self.frames = Frames(PixelLoader(processor, num_frames, decode=self._decoded))
        self.store = PrefixStore(max_bytes)
        self.reason = why_alone(model)
        if self.reason:
            logger.warning(f"each question is computed anew, and its answer comes as a whole: {self.reason}")
        self.ends = ends_of(base.generation_config)
        self._find_special = special_finder(processor.tokenizer)
        self._longest = max(map(len, processor.tokenizer.get_vocab()))  # letters of a token
        base.set_attn_implementation({"text_config": SHARED_ANSWERS})

    @property
    def has_adapter(self) -> bool:
        """The model can be asked without its adapter, too."""
        return isinstance(self.model, PeftModel)

    def prompt(
        self, messages: list[dict], media: Sequence[Media], name: str = "the conversation", is_base: bool = False
    ) -> Prompt:
        """Return the ids of `messages`, which end with the user's words and show `media`.

        is_base: they are asked of the model without its adapter. Raises TooLong; UserError for
        what cannot be said, MediaError for a missing file.
        """
        self._check_size(messages, media)
        for message in messages:
            for part in message["content"]:
                check_text(part.get("text", ""), name)
        refuse_special_tokens(messages, self._find_special, name)
        keys = tuple(map(self.key, media))
        try:
            ids = encode_prompt(messages, self.processor.tokenizer, self.visual_tokens)
        except Exception as error:  # whatever a template of strangers does with roles that it does not expect
            raise UserError(f"{name}: the model's chat template takes no such messages: {one_line(error)}") from error
        if len(ids) >= self.max_context:
            raise self._too_long(len(ids))
        return Prompt(ids, keys, self._runs(ids, media), is_base)

    def _check_size(self, messages: Sequence[dict], media: Sequence[Media]) -> None:
        """Raise TooLong for what cannot fit, before it is tokenised."""
        visual = sum(self.visual_tokens.of(item.kind) for item in media)
        letters = sum(len(part.get("text", "")) for message in messages for part in message["content"])
        least = visual + letters // self._longest
        if least >= self.max_context:
            raise self._too_long(least)

    def _too_long(self, number: int) -> TooLong:
        return TooLong(
            f"the conversation has {number:,} tokens or more, and the model takes {self.max_context:,}, its answer "
            f"included ({self.visual_tokens}); begin a new one, or show less"
        )

    def _runs(self, ids: np.ndarray, media: Sequence[Media]) -> tuple[tuple[int, int], ...]:
        """Return the half-open range of visual tokens of each picture and clip."""
        tokens, runs, start = placeholder_ids(self.processor.tokenizer), [], 0
        for item in media:
            start += int(np.flatnonzero(ids[start:] == tokens[item.kind])[0])
            runs.append((start, start := start + self.visual_tokens.of(item.kind)))
        return tuple(runs)

    def unseen(self, prompt: Prompt, media: Sequence[Media]) -> Sequence[Media]:
        """Return the media of a prompt whose keys and values are not kept."""
        return media[self._num_known(prompt) :]

    def _num_known(self, prompt: Prompt) -> int:
        return 0 if self._is_alone(prompt) else prompt.num_whole(self.store.known(prompt))

    def chosen(self, item: Media) -> Media:
        """Return a picture, or a clip whose frames are chosen as in training."""
        return replace(item, sampling=self.frame_sampling) if item.kind == "video" else item

    def _decoded(self, item: Media, num_frames: int) -> np.ndarray:
        return self._decode(self.chosen(item), num_frames)

    def look(self, item: Media) -> torch.Tensor:
        """Return what the model sees of a picture (3, H, W) or clip (F, 3, H, W), uint8. Raises MediaError."""
        return self.frames(item, self.key(item))

    def _is_alone(self, prompt: Prompt) -> bool:
        """Tell whether `generate` must answer: the model needs it, or the prompt ends in visual tokens."""
        return bool(self.reason) or (len(prompt.runs) > 0 and prompt.shown == len(prompt.ids))

    def asked(self, prompt: Prompt) -> AbstractContextManager:
        """Return the context in which the model is the one that a prompt is for."""
        return self.model.disable_adapter() if prompt.is_base and isinstance(self.model, PeftModel) else nullcontext()

    def reply(self, prompt: Prompt, media: Sequence[Media], sampling: Sampling) -> "Reply":
        """Begin an answer; nothing is computed before its first piece is asked for."""
        return Reply(self, prompt, media, sampling)


class Reply:
    """An answer on its way: iterate over it for its pieces, once. Closing the iterator ends it where it is.

    num_kept: tokens of the prompt whose keys and values were there. said: the tokens so far. finish: why it ended, None
    where it did not.
    """

    def __init__(self, talker: Talker, prompt: Prompt, media: Sequence[Media], sampling: Sampling):
        self.talker, self.prompt, self.media, self.sampling = talker, prompt, media, sampling
        self.max_tokens = min(sampling.max_tokens, talker.max_context - len(prompt.ids))
        self.words = Words(talker.processor.tokenizer, sampling.stop)
        self.num_kept = 0
        self.said: list[int] = []
        self.finish: Finish | None = None
        self._is_left = False

    def cancel(self) -> None:
        """End it before its next token, from any thread."""
        self._is_left = True

    @property
    def text(self) -> str:
        """The part of the answer that has been given out."""
        return self.words.given

    def __iter__(self) -> Generator[str, None, None]:
        """Yield the answer piece by piece. Raises MediaError for media that cannot be shown, OutageError where there is
        too little memory."""
        if self._is_left:
            return
        try:
            with self.talker.asked(self.prompt):
                yield from self._pieces()
        except torch.OutOfMemoryError as error:
            self.talker.store.clear()
            raise OutageError(
                "there is too little memory; what was kept of earlier conversations is dropped, try again"
            ) from error

    def _pieces(self) -> Generator[str, None, None]:
        tokens = self._alone() if self.talker._is_alone(self.prompt) else self._together()
        try:
            for token in tokens:
                if self._is_left:
                    return
                self.said.append(token)
                piece = self.words.add(token)
                self.finish = self._ending(token)
                if self.finish:
                    tokens.close()
                    piece += self.words.end()
                    self.finish = "stop" if self.words.is_stopped else self.finish
                if piece:
                    yield piece
                if self.finish:
                    return
        finally:
            tokens.close()

    def _ending(self, token: int) -> Finish | None:
        if self.words.is_stopped or token in self.talker.ends:
            return "stop"
        return "length" if len(self.said) >= self.max_tokens else None

    def _alone(self) -> Generator[int, None, None]:
        """Yield what `generate` says, all at its end."""
        talker, sampling = self.talker, self.sampling
        config = sampling.config(talker.ends, talker.processor.tokenizer.pad_token_id)
        seed = Chooser(config, sampling.begin()).seed_of(self.prompt.ids)
        pixels = self._pixels(0)
        yield from generate_alone(talker.model, self.prompt.ids, pixels, self.max_tokens, seed, config)

    def _together(self) -> Generator[int, None, None]:
        """Yield tokens as they are chosen, behind what is known; what was computed is kept at the end."""
        talker, prompt = self.talker, self.prompt
        choose = Chooser(self.sampling.config(), self.sampling.begin())  # without ends: whoever iterates sees them
        decoding = Decoding(talker.model, choose, self.max_tokens + 1, room=0)
        prefix = talker.store.take(prompt)
        self.num_kept = prefix.length if prefix else 0
        if self.num_kept < prompt.shown or prefix is None:
            pixels = self._pixels(prompt.num_whole(self.num_kept))
            prefix = decoding.prefill(prompt.ids[self.num_kept : prompt.shown], pixels, prefix)
        decoding.add(prefix, [(0, prompt.ids[prefix.length :])])
        (answer,) = decoding.answers
        try:
            while True:
                decoding.step()
                yield answer.said[-1]
        finally:
            shown = prefix.before or prefix
            talker.store.keep(shown, prompt, _tail(decoding, answer, shown))

    def _pixels(self, first: int) -> dict[str, torch.Tensor]:
        """Return the towers' inputs of all media from the `first` on."""
        frames, fitted = self.talker.frames, {"image": [], "video": []}
        for item, key in list(zip(self.media, self.prompt.keys, strict=True))[first:]:
            fitted[item.kind].append(frames(item, key))
        return frames.load.inputs(fitted["image"], fitted["video"])


@torch.no_grad()
def _tail(decoding: Decoding, answer: Answer, shown: Prefix) -> Prefix | None:
    """Return the states of all that was read and said behind `shown`, None where nothing was."""
    if not answer.length:
        return None
    earlier = answer.prefix.layers if answer.prefix is not shown else ()
    layers = []
    for number, states in enumerate(decoding.states.layers):
        own = [each[0, : answer.length].transpose(0, 1) for each in states]  # (H_kv, n, D)
        if earlier:
            own = [torch.cat(both, dim=1) for both in zip(earlier[number], own, strict=True)]
        layers.append((own[0].contiguous(), own[1].contiguous()))
    said = np.concatenate([answer.prompt, answer.said]).astype(answer.prompt.dtype)
    length = answer.prefix.length + answer.length
    return Prefix(said[:length], tuple(layers), before=shown)
