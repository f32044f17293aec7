"""Samples in groups -> the rows that one epoch is made of."""

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from data.media.bad_media import media_key
from data.media.frame_sampling import UNIFORM, clip_seed
from data.media.reference import Media
from data.packing.fingerprint import digest_of_tokens, fingerprint_samples
from data.packing.groups import Group, Groups, groups_of_one, recurring_media, shared_prefix_groups
from data.packing.pack import EpochRow, EpochRows, plan_rows, rows_of_one
from data.packing.rank_sampler import RankBatchSampler
from data.packing.rows import LeftOut, nothing_left_out
from data.tokens.array_files import Beside, Columns
from data.tokens.columns import Column, Ragged
from data.tokens.encoding import Sample
from data.tokens.samples import Samples
from data.video_llava import VisualTokens

NOT_KEPT = Beside()
ROWS = ("groups", "starts", "sizes")  # the arrays of `EpochRows`


class RowDataset(Dataset):
    """Rows of groups of samples, planned ahead (see `data.packing.rows.Rows`).

    sampling: which frames of the clips are taken, uniform unless set; jitter's seed is drawn from that of the rows.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        groups: Groups,
        max_tokens_per_row: int | None,
        seed: int,
        beside: Beside = NOT_KEPT,
    ):
        """max_tokens_per_row None: every group is a row of its own. beside: where what is made of groups is kept."""
        self.samples = as_samples(samples)
        self.groups, self.seed = groups, seed
        self.samples.finish()
        self.groups.finish()
        self.max_tokens_per_row, self.sampling = max_tokens_per_row, UNIFORM
        self._beside = beside
        self._media = self._recurring_media() if max_tokens_per_row is not None else ()
        self._num_rows = len(groups) if max_tokens_per_row is None else len(self.rows(epoch=0))

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, epoch: int) -> EpochRows:
        """Return indices of groups, row by row; a function of seed and epoch alone."""
        if self.max_tokens_per_row is None:
            return rows_of_one(len(self.groups), self.seed, epoch)
        columns = self._beside.get("rows", lambda: self._planned(epoch), self.max_tokens_per_row, self.seed, epoch)
        groups, starts, sizes = (np.asarray(columns[name].view()) for name in ROWS)
        return EpochRows(groups, starts, sizes, epoch)

    def _planned(self, epoch: int) -> Columns:
        assert self.max_tokens_per_row is not None
        rows = plan_rows(self.groups.num_tokens, self._media, self.max_tokens_per_row, self.seed, epoch)
        columns = {name: Column("i") for name in ROWS}
        for name, numbers in zip(ROWS, (rows.groups, rows.starts, rows.sizes), strict=True):
            columns[name].join(numbers)
        return columns

    def _recurring_media(self) -> Ragged:
        make = recurring_media
        return Ragged.of(self._beside.get("media", lambda: make(self.samples, self.groups).columns("media")), "media")

    def batches(
        self,
        batch_size: int,
        rows_per_step: int | None,
        num_ranks: int = 1,
        rank: int = 0,
        left_out: LeftOut = nothing_left_out,
    ) -> RankBatchSampler:
        return RankBatchSampler(self, batch_size, rows_per_step, num_ranks, rank, left_out)

    def begin(self, num_steps_done: int, folder: Path, writes: bool) -> None:
        """Do nothing: any step of any epoch is planned without those before it."""

    def without(self, row: EpochRow, left_out: Set[str]) -> EpochRow:
        kept = [index for index in row if left_out.isdisjoint(map(media_key, self._media_of(index)))]
        return EpochRow(kept, row.epoch)

    def _media_of(self, group: int) -> tuple[Media, ...]:
        return self.samples[self.groups[group].samples[0]].media

    def num_samples(self) -> int:
        return len(self.samples)

    def num_media_files(self) -> int:
        return self.samples.num_files()

    def num_tokens(self, row: Sequence[int]) -> int:
        return sum(self.groups.num_tokens[index] for index in row)

    def kinds(self) -> set[str]:
        return self.samples.kinds

    def media(self) -> set[Media]:
        """Return every picture and clip once, as the rows of any epoch have it; not for jitter."""
        return {replace(item, sampling=self.sampling) for item in self.samples.media()}

    def fingerprint(self, imprint_of: Callable[[Media], tuple | None]) -> str:
        kept = Beside(self.samples.made).get(
            "tokens", lambda: {"digest": Column("B", digest_of_tokens([self.samples]).encode())}
        )
        return fingerprint_samples([self.samples], imprint_of, bytes(kept["digest"].view()).decode())

    def __getitem__(self, index: EpochRow) -> list[tuple[Group, list[Sample]]]:
        groups = [self.groups[number] for number in index]
        return [(group, [self._sampled(self.samples[number], index) for number in group.samples]) for group in groups]

    def _sampled(self, sample: Sample, row: EpochRow) -> Sample:
        """Choose the frames of the sample's clips as `sampling` says; the same for all questions about a clip."""
        if self.sampling == UNIFORM:
            return sample
        return replace(sample, media=tuple(self._choice(item, row) for item in sample.media))

    def _choice(self, item: Media, row: EpochRow) -> Media:
        seed = ()
        if self.sampling.way == "jitter":
            seed = clip_seed(self.seed, row.epoch, item.path, item.start, item.end)
        return replace(item, sampling=replace(self.sampling, seed=seed))


def shared_prefix_rows(
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    max_questions_per_clip: int,
    max_tokens_per_row: int,
    seed: int,
) -> RowDataset:
    """Lay the questions about one clip behind one copy of it, and pack several such groups into a row."""
    samples = as_samples(samples)
    limits = max_questions_per_clip, max_tokens_per_row
    beside = Beside(samples.made, limits)
    groups = beside.get("groups", lambda: shared_prefix_groups(samples, tokenizer, visual_tokens, *limits).columns())
    return RowDataset(samples, Groups.of(groups), max_tokens_per_row, seed, beside)


def single_sample_rows(samples: Sequence[Sample], visual_tokens: VisualTokens, seed: int) -> RowDataset:
    """Make every conversation a row of its own, for ordinary padded batches."""
    samples = as_samples(samples)
    groups = Beside(samples.made).get("single", lambda: groups_of_one(samples, visual_tokens).columns())
    return RowDataset(samples, Groups.of(groups), None, seed)


def as_samples(samples: Sequence[Sample]) -> Samples:
    return samples if isinstance(samples, Samples) else Samples(samples)
