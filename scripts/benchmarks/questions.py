"""Random questions about clips and pictures, as padded batches and as packed rows."""

import random
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import VideoLlavaProcessor

from data.batches.collator import PaddedCollator, RowCollator
from data.media.reference import Media
from data.packing.dataset import RowDataset, shared_prefix_rows, single_sample_rows
from data.packing.pack import EpochRow
from data.tokens.encoding import Sample
from data.video_llava import PLACEHOLDERS, VisualTokens
from scripts.demo.scenes import film, photograph, random_scene

# Tokens of a question of MSVD-QA or MSRVTT-QA in LLaMA's vocabulary, its `ASSISTANT:` included, and of an answer.
QUESTION_TOKENS, ANSWER_TOKENS = (10, 14), (1, 4)
MAX_INT32 = 2**31 - 1  # a row without a limit: its lengths are kept as int32


@dataclass(frozen=True)
class Questions:
    """Samples and what turns them into tensors. Media are decoded here, before anything is timed."""

    samples: list[Sample]
    processor: VideoLlavaProcessor
    visual_tokens: VisualTokens

    def batches(self, size: int) -> list[dict[str, Any]]:
        """Return padded batches of `size` samples in their order, as `packing: none` trains them."""
        rows = single_sample_rows(self.samples, self.visual_tokens, seed=0)
        collate = PaddedCollator(self.processor, self.visual_tokens)
        alone = [EpochRow([index], epoch=0) for index in range(len(self.samples))]
        return [collate([rows[row] for row in alone[start : start + size]]) for start in range(0, len(alone), size)]

    def rows(self, size: int) -> list[dict[str, Any]]:
        """Return packed rows with room for `size` of the longest groups, as `packing: shared_prefix` trains them."""
        number = len(self.samples)
        unbounded = shared_prefix_rows(
            self.samples, self.processor.tokenizer, self.visual_tokens, number, MAX_INT32, seed=0
        )
        room = size * max(unbounded.groups.num_tokens)
        rows = RowDataset(self.samples, unbounded.groups, room, seed=0)
        collate = RowCollator(self.processor, self.visual_tokens)
        return [collate([rows[row]]) for row in rows.rows(epoch=0)]

    def first(self, number: int) -> "Questions":
        return Questions(self.samples[:number], self.processor, self.visual_tokens)


class QuestionMaker:
    """A source of random questions, clips and pictures; media files go to `folder`."""

    def __init__(self, processor: VideoLlavaProcessor, visual_tokens: VisualTokens, folder: Path, seed: int):
        self.processor, self.visual_tokens, self.folder = processor, visual_tokens, folder
        self.random, self.scenes = random.Random(seed), np.random.default_rng(seed)
        self._num_files = 0

    def about_clips(self, num_clips: int, questions_per_clip: int) -> Questions:
        """Ask some questions about each of some new clips."""
        clips = [self._media("video") for _ in range(num_clips)]
        return self._questions([self._sample(clip) for clip in clips for _ in range(questions_per_clip)])

    def mixed(self, number: int) -> Questions:
        """Ask one question about each of `number` clips and `number` pictures, and `number` about neither, shuffled."""
        media = [self._media(kind) if kind else None for kind in ("video", "image", None) for _ in range(number)]
        self.random.shuffle(media)
        return self._questions([self._sample(item) for item in media])

    def _questions(self, samples: list[Sample]) -> Questions:
        return Questions(samples, self.processor, self.visual_tokens)

    def _sample(self, media: Media | None) -> Sample:
        tokenizer = self.processor.tokenizer
        head = tokenizer(f"USER: {PLACEHOLDERS[media.kind]}\n" if media else "USER: ").input_ids
        question, answer = (
            self.random.choices(range(len(tokenizer) // 2, len(tokenizer)), k=self.random.randint(*bounds))
            for bounds in (QUESTION_TOKENS, ANSWER_TOKENS)
        )
        ids = array("i", [*head, *question, *answer, tokenizer.eos_token_id])
        trained = ((len(head) + len(question), len(ids)),)
        return Sample(ids, trained, (media,) if media else (), name="random")

    def _media(self, kind: Literal["image", "video"]) -> Media:
        self._num_files += 1
        path = self.folder / f"{self._num_files}.{'mp4' if kind == 'video' else 'png'}"
        (film if kind == "video" else photograph)(random_scene(self.scenes), path)
        return Media(kind, str(path))
