"""The rows of a recipe: those of its data where they are here, else as large as its limits let them be."""

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import VideoLlavaProcessor

from data.batches.collator import COLLATORS
from data.cache.feature_cache import INPUTS
from data.media.reference import Media
from data.packing.dataset import shared_prefix_rows, single_sample_rows
from data.packing.rows import Row
from data.tokens.encoding import Sample
from data.video_llava import PLACEHOLDERS, VisualTokens
from train.recipe.recipe import Data

# Tokens of a question with its `ASSISTANT:` and of an answer with its EOS, as in MSVD-QA and MSRVTT-QA.
QUESTION_TOKENS, ANSWER_TOKENS = 13, 3
QUESTIONS = 8  # about a clip, where neither data nor an option say how many
NUM_BEFORE = 4  # tokens before a clip and behind it that all questions share: BOS, USER:, line break


@dataclass(frozen=True)
class BlankMedia:
    """Inputs of the towers as a `MediaLoader` gives them, of the right shapes and with nothing in them.

    shape: of a picture or frame as the model takes it, (3, H, W), or its features.
    """

    shape: tuple[int, ...]
    num_frames: int
    dtype: torch.dtype = torch.uint8

    def fitted(self, item: Media) -> torch.Tensor:
        return torch.empty(self.shape if item.kind == "image" else (self.num_frames, *self.shape), dtype=self.dtype)

    def inputs(self, pictures: Sequence[torch.Tensor], clips: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {INPUTS[kind]: torch.stack(list(some)) for kind, some in (("image", pictures), ("video", clips)) if some}

    def empty(self, kinds: Collection[str]) -> dict[str, torch.Tensor]:
        return {}


def collate(
    rows: Sequence[Row], data: Data, processor: VideoLlavaProcessor, visual_tokens: VisualTokens, media: BlankMedia
) -> dict[str, Any]:
    """Return the batch of a row, or of several samples, as the recipe's collator makes it."""
    return COLLATORS[data.packing](processor, visual_tokens, (), media)(rows)


def assumed_rows(
    data: Data, processor: VideoLlavaProcessor, visual_tokens: VisualTokens, questions: int | None, batch_size: int
) -> list[Row]:
    """Return the rows of a micro-batch whose data are not known: one full row, or `batch_size` samples.

    Every clip has so many questions of QUESTION_TOKENS and ANSWER_TOKENS. None: QUESTIONS of them, which are as long as
    max_tokens_per_row lets them be.
    """
    asked = min(questions or QUESTIONS, data.max_questions_per_clip)
    if data.packing == "none":
        samples = [_sample(processor, clip, 0, QUESTION_TOKENS + ANSWER_TOKENS) for clip in range(batch_size)]
        rows = single_sample_rows(samples, visual_tokens, seed=0)
        return [*map(rows.__getitem__, rows.rows(epoch=0))]
    text = QUESTION_TOKENS + ANSWER_TOKENS
    prefix = visual_tokens.video + NUM_BEFORE
    clips = max(1, data.max_tokens_per_row // (prefix + asked * text))
    if questions is None:
        text = max(text, (data.max_tokens_per_row // clips - prefix) // asked)
    samples = [_sample(processor, clip, number, text) for clip in range(clips) for number in range(asked)]
    limits = data.max_questions_per_clip, clips * (prefix + asked * text)
    planned = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, *limits, seed=0)
    return [planned[planned.rows(epoch=0)[0]]]


def _sample(processor: VideoLlavaProcessor, clip: int, number: int, length: int) -> Sample:
    """Make a sample of one clip and `length` tokens about it, of which as large a share is trained as in ours."""
    tokenizer = processor.tokenizer
    media = set(tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS.values())))
    words = [token for token in range(number, number + length + len(media)) if token not in media][:length]
    any_word, clip_token = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(PLACEHOLDERS["video"])
    before = [any_word] * (NUM_BEFORE - 1) + [clip_token, any_word]
    num_trained = max(1, length * ANSWER_TOKENS // (QUESTION_TOKENS + ANSWER_TOKENS))
    ids = array("i", before + words)
    trained = ((len(ids) - num_trained, len(ids)),)
    return Sample(ids, trained, (Media("video", f"{clip}.mp4"),), f"question {number} about clip {clip}")
