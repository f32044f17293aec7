"""Data files -> samples, and samples -> the rows that one epoch is made of."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from data.conversation import Media, read_conversations
from data.encoding import Sample, encode
from data.errors import UserError
from data.media import check_media_file
from data.packing import Group, Groups, make_groups, plan_rows
from data.sampling import UNIFORM, clip_seed
from data.video_llava import PLACEHOLDERS, VisualTokens


@dataclass
class Corpus:
    """The tokenised conversations of some files, and what `max_length` cost.

    too_long: names of the conversations of which not even the first turn fits;
    num_turns_dropped: trailing turns that were cut from the others.
    """

    samples: list[Sample] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)

    @property
    def num_turns_dropped(self) -> int:
        return sum(sample.num_turns_dropped for sample in self.samples)

    def notices(self, max_length: int) -> list[str]:
        """A line for the user on everything that will not be trained on."""
        lines = []
        if self.too_long:
            shown = ", ".join(self.too_long[:3]) + (", ..." if len(self.too_long) > 3 else "")
            lines.append(f"{len(self.too_long)} conversations longer than max_length {max_length}: {shown}")
        if self.num_turns_dropped:
            name = next(sample.name for sample in self.samples if sample.num_turns_dropped)
            lines.append(f"{self.num_turns_dropped} trailing turns beyond max_length {max_length} (first: {name})")
        return lines


def load_corpus(
    sources: Sequence[tuple],
    tokenizer,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None = None,
) -> Corpus:
    """Read and tokenise every conversation of `sources`, each the arguments of `read_conversations`; decodes nothing.

    Raises UserError for the first row that is wrong or whose media file is missing, empty or mislabelled, and
    when nothing is left to train on.
    """
    corpus, checked = Corpus(), set[Media]()
    for source in sources:
        for conversation in read_conversations(*source):
            sample = encode(conversation, tokenizer, visual_tokens, max_length, system_prompt)
            if sample is None:
                corpus.too_long.append(conversation.name)
                continue
            for media in set(sample.media) - checked:
                _check_media(media, conversation.name)
                checked.add(media)
            corpus.samples.append(sample)
    if not corpus.samples:
        paths = ", ".join(path for path, *_ in sources)
        reason = f"all {len(corpus.too_long)} conversations are longer than data.max_length {max_length}"
        raise UserError(f"{paths}: {reason if corpus.too_long else 'no conversation in it'}; nothing to train on")
    return corpus


def _check_media(media: Media, name: str) -> None:
    try:
        check_media_file(Path(media.path), media.kind)
    except UserError as problem:
        raise UserError(f"{name}: {problem}") from problem


class EpochRow(list):
    """Indices of the groups of a row, and the epoch it belongs to, which reaches the data loader's workers with it."""

    def __init__(self, groups: Sequence[int], epoch: int):
        super().__init__(groups)
        self.epoch = epoch


class RowDataset(Dataset):
    """Rows of groups of samples. Indexed by a row of `rows(epoch)`.

    sampling: which frames of the clips are taken, uniform unless set; jitter's seed is drawn from that of the rows.
    """

    def __init__(self, samples: Sequence[Sample], groups: Groups, max_tokens_per_row: int | None, seed: int):
        """max_tokens_per_row None: every group is a row of its own."""
        self.samples, self.groups, self.seed = samples, groups, seed
        self.max_tokens_per_row, self.sampling = max_tokens_per_row, UNIFORM
        self._lengths = array("i", groups.lengths())
        self._num_rows = len(groups) if max_tokens_per_row is None else len(self.rows(epoch=0))

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, epoch: int) -> list[list[int]]:
        """Indices of groups, row by row; a function of seed and epoch alone."""
        if self.max_tokens_per_row is None:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.groups))
            return [EpochRow([group], epoch) for group in order.tolist()]
        media = [self.samples[group.samples[0]].media for group in self.groups]
        rows = plan_rows(self._lengths, media, self.max_tokens_per_row, self.seed, epoch)
        return [EpochRow(row, epoch) for row in rows]

    def num_tokens(self, row: Sequence[int]) -> int:
        """In the decoder's input, visual and text tokens."""
        return sum(self._lengths[index] for index in row)

    def kinds(self) -> set[str]:
        """The kinds of media, "image" and "video", that are in any row."""
        return {media.kind for sample in self.samples for media in sample.media}

    def __getitem__(self, row: EpochRow) -> list[tuple[Group, list[Sample]]]:
        groups = [self.groups[index] for index in row]
        return [(group, [self._sampled(self.samples[index], row) for index in group.samples]) for group in groups]

    def _sampled(self, sample: Sample, row: EpochRow) -> Sample:
        """`sample` with the frames of its clips chosen as `sampling` says; the same for all questions about a clip."""
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
    tokenizer,
    visual_tokens: VisualTokens,
    max_questions_per_clip: int,
    max_tokens_per_row: int,
    seed: int,
) -> RowDataset:
    """Rows in which the questions about one clip lie behind one copy of it (see data.packing)."""
    groups = make_groups(
        [sample.input_ids for sample in samples],
        [sample.trained[0][0] for sample in samples],
        [sample.media for sample in samples],
        {tokenizer.convert_tokens_to_ids(token): visual_tokens.of(kind) for kind, token in PLACEHOLDERS.items()},
        max_questions_per_clip,
        max_tokens_per_row,
    )
    return RowDataset(samples, groups, max_tokens_per_row, seed)


def single_sample_rows(samples: Sequence[Sample], visual_tokens: VisualTokens, seed: int) -> RowDataset:
    """Every conversation by itself, for ordinary padded batches."""
    groups = Groups([_num_tokens(sample, visual_tokens) for sample in samples])
    for index in range(len(samples)):
        groups.append([index], 0)
    return RowDataset(samples, groups, None, seed)


def _num_tokens(sample: Sample, visual_tokens: VisualTokens) -> int:
    return len(sample.input_ids) + sum(visual_tokens.of(media.kind) - 1 for media in sample.media)
