"""Rows and samples -> tensors. Media are decoded here, in the data loader's workers."""

from array import array
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, VideoLlavaProcessor

from data.batches.group_pixels import load_groups
from data.batches.pixels import MediaLoader, PixelLoader
from data.media.reference import Media
from data.packing.groups import Group
from data.packing.layout import RowLayout, packed_inputs
from data.packing.rows import Row
from data.tokens.encoding import IGNORE_INDEX, Sample, expand
from data.video_llava import VisualTokens


class Collator:
    """The parts that every collator has."""

    def __init__(
        self,
        processor: VideoLlavaProcessor,
        visual_tokens: VisualTokens,
        towers: Collection[str] = (),
        load_pixels: MediaLoader | None = None,
    ):
        """towers: kinds of media whose tower runs in every batch, on nothing where there are none of them.
        load_pixels: a `PixelLoader` unless it is given."""
        self.processor, self.visual_tokens = processor, visual_tokens
        self.load_pixels = load_pixels or PixelLoader(processor, visual_tokens.num_frames)
        self.no_pixels = self.load_pixels.empty(towers)


class RowCollator(Collator):
    """One row -> input_ids and labels (1, L) long, its layout (see `packed_inputs`), pixels (see `pixel_inputs`)
    and counts.

    No padding: the groups of the row stand one behind the other. [1 2 3 | 4 | 5 6] are the ids of one group with
    a prefix of three tokens and two suffixes. An empty batch becomes two tokens without a label. Groups whose media
    cannot be decoded are left out and listed as `bad_media` (see `load_groups`).
    """

    def __call__(self, batch: Sequence[Row]) -> dict[str, Any]:
        (row,) = batch or [[]]
        kept, pixels, bad = load_groups([samples for _, samples in row], self.load_pixels)
        row = [row[number] for number in kept]
        row = row or [(Group((0,), 1, (1,)), [nothing_to_learn(self.processor.tokenizer)])]
        laid_out = []
        for group, samples in row:
            expanded = [expand(s.input_ids, s.labels, self.processor.tokenizer, self.visual_tokens) for s in samples]
            laid_out.append([group.lay_out(sequences) for sequences in zip(*expanded, strict=True)])
        ids, labels = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*laid_out, strict=True))
        media = [item for _, samples in row for item in samples[0].media]
        return {
            "input_ids": ids.long()[None],
            "labels": labels.long()[None],
            **packed_inputs(RowLayout(tuple(group.shape for group, _ in row))),
            **self.no_pixels,
            **pixels,
            "counts": _counts(media, [sample for _, samples in row for sample in samples]),
            "names": [sample.name for _, samples in row for sample in samples if sample.trained],
            **({"bad_media": bad} if bad else {}),
        }


class PaddedCollator(Collator):
    """Samples -> input_ids, attention_mask and labels (B, T) long, padded on the right; pixels and counts.

    Ids [1 2] and [3] become [[1 2] [3 pad]], mask [[1 1] [1 0]], labels -100 where padded. An empty batch becomes two
    tokens without a label. Samples whose media cannot be decoded are left out as in `RowCollator`.
    """

    def __call__(self, batch: Sequence[Row]) -> dict[str, Any]:
        tokenizer = self.processor.tokenizer
        samples = [sample for row in batch for _, members in row for sample in members]
        kept, pixels, bad = load_groups([[sample] for sample in samples], self.load_pixels)
        samples = [samples[number] for number in kept] or [nothing_to_learn(tokenizer)]
        expanded = [expand(s.input_ids, s.labels, tokenizer, self.visual_tokens) for s in samples]
        ids, labels = zip(*expanded, strict=True)
        media = [item for sample in samples for item in sample.media]
        return {
            "input_ids": pad(ids, tokenizer.pad_token_id),
            "attention_mask": pad([np.ones_like(each) for each in ids], 0),
            "labels": pad(labels, IGNORE_INDEX),
            **self.no_pixels,
            **pixels,
            "counts": _counts(media, samples),
            "names": [sample.name for sample in samples if sample.trained],
            **({"bad_media": bad} if bad else {}),
        }


COLLATORS = {"shared_prefix": RowCollator, "none": PaddedCollator}  # by the recipe's data.packing


def nothing_to_learn(tokenizer: PreTrainedTokenizerBase) -> Sample:
    """Return what stands in an empty batch: a rank without a row of its own computes with the others, to a loss of 0.

    Two tokens, because the loss looks at each token's successor.
    """
    return Sample(array("i", [tokenizer.eos_token_id] * 2), trained=(), media=(), name="an empty batch")


def pad(sequences: Sequence[np.ndarray], value: int, side: str = "right") -> torch.Tensor:
    """Pad sequences of unequal lengths to one tensor, (B, T) long."""
    length = max(map(len, sequences))
    padded = np.full((len(sequences), length), value, dtype=np.int64)
    for target, ids in zip(padded, sequences, strict=True):
        target[slice(len(ids)) if side == "right" else slice(length - len(ids), length)] = ids
    return torch.from_numpy(padded)


def _counts(media: Sequence[Media], samples: Sequence[Sample]) -> dict[str, int]:
    clips = sum(item.kind == "video" for item in media)
    questions = sum(bool(sample.trained) for sample in samples)
    return {"questions": questions, "clips": clips, "pictures": len(media) - clips}
