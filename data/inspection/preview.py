"""A batch as a person can read it: which words are trained, which are masked, the frames, who sees whom.

Everything is read from the tensors that the model gets, not from the data behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, VideoLlavaProcessor

from data.decoding.moments import Moments, moments_of
from data.media.reference import Media
from data.packing.layout import RowLayout
from data.packing.rows import Row
from data.tokens.encoding import IGNORE_INDEX, placeholder_ids
from data.video_llava import PLACEHOLDERS, VisualTokens, image_key


@dataclass(frozen=True)
class Span:
    """Tokens that stand together: "image", "video" (one picture or clip), "masked", "trained" or "cut" words.

    is_shared: they belong to the prefix that other questions share.
    """

    kind: str
    text: str
    num_tokens: int
    is_shared: bool = False


@dataclass(frozen=True)
class Shown:
    """A picture or clip: its frames uint8 (F, H, W, 3), cropped and resized as the model gets them, and when they are
    taken, as far as that is known."""

    media: Media
    frames: np.ndarray
    moments: Moments | None = None


@dataclass(frozen=True)
class ShownGroup:
    """A prefix that questions share, and each question with its answer; an ordinary batch has all words in `prefix`.

    Suffixes begin with what of the prefix stands behind its last picture or clip, so that no word is torn: `is_shared`.
    """

    media: list[Shown]
    prefix: list[Span]
    suffixes: list[list[Span]]
    names: list[str]

    @property
    def opening(self) -> list[Span]:
        """The prefix up to its last picture or clip."""
        last = max((place for place, span in enumerate(self.prefix) if span.kind in PLACEHOLDERS), default=-1)
        return self.prefix[: last + 1]


@dataclass(frozen=True)
class ShownRow:
    groups: list[ShownGroup]
    layout: RowLayout

    def num_tokens(self, *kinds: str) -> int:
        """Count the tokens of these kinds of spans; without any, of all."""
        spans = (span for group in self.groups for part in (group.prefix, *group.suffixes) for span in part)
        return sum(span.num_tokens for span in spans if not span.is_shared and (not kinds or span.kind in kinds))


def show_row(
    row: Row,
    batch: dict[str, Any],
    processor: VideoLlavaProcessor,
    visual_tokens: VisualTokens,
    num_kept: int | None = None,
) -> ShownRow:
    """Show a row from the batch that a collator of `data.batches.collator` made of it alone.

    Groups that the collator left out, because their media cannot be decoded, are not shown. num_kept: tokens of an
    unpacked conversation behind which it is cut.
    """
    bad = {problem.item for problem in batch.get("bad_media", ())}
    row = [(group, samples) for group, samples in row if bad.isdisjoint(samples[0].media)]
    if not row:
        return ShownRow([], RowLayout(()))
    layout = batch.get("row_layout") or RowLayout(((batch["input_ids"].shape[1], ()),))
    ids, labels = (batch[key][0].split(layout.group_lengths) for key in ("input_ids", "labels"))
    pixels = {"image": iter(batch.get(image_key(), ())), "video": iter(batch.get("pixel_values_videos", ()))}
    groups = []
    for (_, samples), shape, group_ids, group_labels in zip(row, layout.groups, ids, labels, strict=True):
        prefix, suffixes = _parts(group_ids, group_labels, shape, processor.tokenizer, visual_tokens, num_kept)
        media = [_shown(item, next(pixels[item.kind]), processor) for item in samples[0].media]
        groups.append(ShownGroup(media, prefix, suffixes, [sample.name for sample in samples]))
    return ShownRow(groups, layout)


def _parts(
    ids: torch.Tensor,
    labels: torch.Tensor,
    shape: tuple[int, tuple[int, ...]],
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    num_kept: int | None,
) -> tuple[list[Span], list[list[Span]]]:
    """Return the spans of a group's prefix, and of each of its suffixes with the words before it."""
    (prefix_ids, *suffix_ids), (prefix_labels, *suffix_labels) = (
        [part.tolist() for part in sequence.split([shape[0], *shape[1]])] for sequence in (ids, labels)
    )
    prefix = find_spans(prefix_ids, prefix_labels, tokenizer, visual_tokens, num_kept=num_kept)
    visual = set(placeholder_ids(tokenizer).values())
    words = max((place + 1 for place, token in enumerate(prefix_ids) if token in visual), default=0)
    suffixes = [
        find_spans(prefix_ids + some_ids, prefix_labels + some_labels, tokenizer, visual_tokens, words, shape[0])
        for some_ids, some_labels in zip(suffix_ids, suffix_labels, strict=True)
    ]
    return prefix, suffixes


def find_spans(
    ids: Sequence[int],
    labels: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    start: int = 0,
    num_shared: int = 0,
    num_kept: int | None = None,
) -> list[Span]:
    """Return the spans from token `start` on. A run of visual tokens is one span for each of its pictures or clips.

    The first `num_shared` tokens belong to a prefix, and words behind the first `num_kept` are cut.

    Texts are differences of decoded beginnings, because tokenizers drop the blank before the first word they decode.
    """
    kinds = {number: kind for kind, number in placeholder_ids(tokenizer).items()}
    spans: list[Span] = []
    seen: list[int] = []  # all ids so far, with one for a picture or clip
    told = ""  # their text

    def kind_of(place: int) -> str:
        words = "trained" if labels[place] != IGNORE_INDEX else "masked"
        return kinds.get(ids[place], words if num_kept is None or place < num_kept else "cut")

    for (kind, is_asked, is_shared), places in groupby(
        range(len(ids)), lambda place: (kind_of(place), place >= start, place < num_shared)
    ):
        here = [ids[place] for place in places]
        if kind in PLACEHOLDERS:
            here = here[:: visual_tokens.of(kind)]
        seen += here
        text = str(tokenizer.decode(seen, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if kind in PLACEHOLDERS:
            new = [Span(kind, PLACEHOLDERS[kind], visual_tokens.of(kind), is_shared)] * len(here)
        else:
            new = [Span(kind, text[len(told) :], len(here), is_shared)]
        told = text
        spans += new if is_asked else []
    return spans


def _shown(item: Media, values: torch.Tensor, processor: VideoLlavaProcessor) -> Shown:
    frames = _frames(values, item.kind, processor)
    return Shown(item, frames, moments_of(item, len(frames)) if item.kind == "video" else None)


def _frames(values: torch.Tensor, kind: str, processor: VideoLlavaProcessor) -> np.ndarray:
    """Turn normalised values, (3, H, W) or (F, 3, H, W), back into uint8 (F, H, W, 3)."""
    side = processor.image_processor if kind == "image" else processor.video_processor
    mean, std = (np.asarray(figures)[:, None, None] for figures in (side.image_mean, side.image_std))
    shares = values.float().numpy() * std + mean  # (..., 3, H, W), 0 to 1
    frames = (shares.clip(0, 1) * 255).round().astype(np.uint8)
    return np.moveaxis(frames.reshape(-1, *frames.shape[-3:]), 1, -1)


def mask_picture(layout: RowLayout, max_size: int = 480) -> np.ndarray:
    """Return uint8 (N, N), N at most `max_size`: 0 where the query (line) does not see the key (column), 1 where it
    sees its group's prefix, 2 where a question sees itself. A longer row is shown by tokens at equal distances."""
    owners = []  # for each token (group, 0 for the prefix or the number of the suffix)
    for group, (prefix_length, suffix_lengths) in enumerate(layout.groups):
        for part, length in enumerate((prefix_length, *suffix_lengths)):
            owners.append(np.broadcast_to([[group, part]], (length, 2)))
    group, part = np.concatenate(owners).T
    size = min(len(group), max_size)
    at = np.arange(size) * len(group) // size
    group, part = group[at], part[at]
    same_group = np.tril(group[:, None] == group)
    own = same_group & (part[:, None] == part) & (part > 0)
    return np.where(own, 2, (same_group & (part == 0)).astype(np.uint8)).astype(np.uint8)
