"""Random questions about clips and pictures, as the batches of the plain ways and the rows of ours."""

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from demo_scenes import film, photograph, random_scene

from data.collator import PaddedCollator, RowCollator
from data.conversation import Media
from data.dataset import shared_prefix_rows, single_sample_rows
from data.encoding import IGNORE_INDEX, Sample
from data.video_llava import VisualTokens

# Tokens of a question of MSVD-QA or MSRVTT-QA in LLaMA's vocabulary, its `ASSISTANT:` included, and of an answer.
QUESTION_TOKENS, ANSWER_TOKENS = (10, 14), (1, 4)


@dataclass(frozen=True)
class Questions:
    """Samples and what turns them into batches."""

    samples: list[Sample]
    processor: object
    visual_tokens: VisualTokens

    def batches(self, size: int) -> list[dict]:
        """Padded batches of `size` samples, in the samples' order, as `packing: none` trains them."""
        rows, collate = single_sample_rows(self.samples, seed=0), PaddedCollator(self.processor, self.visual_tokens)
        indices = range(len(self.samples))
        return [collate([rows[[i]] for i in indices[start : start + size]]) for start in indices[::size]]

    def rows(self, size: int) -> list[dict]:
        """Packed rows with room for `size` of the longest groups."""
        num_samples = len(self.samples)
        lengths = [len(sample.input_ids) + self._visual_tokens(sample) for sample in self.samples]
        unbounded = self._rows(num_samples, sum(lengths))
        return [self._collate(row) for row in self._rows(num_samples, size * max(unbounded.groups.lengths()))]
