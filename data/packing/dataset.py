"""Data files -> samples, and samples -> the rows that one epoch is made of."""

from array import array
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
from torch.utils.data import Dataset

from data.errors import UserError
from data.media.bad_media import media_key, too_many
from data.media.frame_sampling import UNIFORM, clip_seed
from data.media.reference import Media
from data.media.storage import check_media
from data.packing.pack import EpochRow, Group, Groups, Rows, make_groups, plan_rows
from data.sources.conversation import read_conversations
from data.tokens.columns import Ragged
from data.tokens.encoding import Sample, encode_all
from data.tokens.samples import Samples
from data.video_llava import PLACEHOLDERS, VisualTokens


@dataclass
class Corpus:
    """The tokenised conversations of some files, and what `max_length` cost.

    too_long: names of the conversations of which not even the first turn fits;
    num_turns_dropped: trailing turns that were cut from the others;
    unreadable: media file -> the row and what is wrong, where `load_corpus` may go on without such files.
    """

    samples: Samples = field(default_factory=Samples)
    too_long: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def num_turns_dropped(self) -> int:
        return sum(self.samples.turns_dropped)

    def notices(self, max_length: int) -> list[str]:
        """A line for the user on everything that will not be trained on."""
        lines = []
        if self.too_long:
            shown = ", ".join(self.too_long[:3]) + (", ..." if len(self.too_long) > 3 else "")
            lines.append(f"{len(self.too_long)} conversations longer than max_length {max_length}: {shown}")
        if self.num_turns_dropped:
            name = self.samples.name(next(i for i, number in enumerate(self.samples.turns_dropped) if number))
            lines.append(f"{self.num_turns_dropped} trailing turns beyond max_length {max_length} (first: {name})")
        lines += list(self.unreadable.values())
        return lines


def load_corpus(
    sources: Sequence[tuple],
    tokenizer,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None = None,
    max_bad_media: float = 0,
) -> Corpus:
    """Read and tokenise every conversation of `sources`, each the arguments of `read_conversations`; decodes nothing.

    Raises UserError for the first row that is wrong, for media files that are missing, empty or mislabelled where
    these are more than the share `max_bad_media` of all files, and when nothing is left to train on.
    """
    corpus = Corpus(Samples(num_ids=len(tokenizer)))
    for source in sources:
        conversations = read_conversations(*source)
        for name, sample in encode_all(conversations, tokenizer, visual_tokens, max_length, system_prompt):
            if sample is None:
                corpus.too_long.append(name)
                continue
            for media in corpus.samples.append(sample):
                _check_media(media, name, corpus, may_be_bad=max_bad_media > 0)
    corpus.samples.finish()
    if not corpus.samples:
        paths = ", ".join(str(path) for path, *_ in sources)
        reason = f"all {len(corpus.too_long)} conversations are longer than max_length {max_length}"
        raise UserError(f"{paths}: {reason if corpus.too_long else 'no conversation in it'}; nothing to train on")
    num_bad, num_files = len(corpus.unreadable), corpus.samples.num_files()
    if num_bad > max_bad_media * num_files:
        first = next(iter(corpus.unreadable.values()))
        raise UserError(f"{first} ({too_many(num_bad, num_files, max_bad_media)})")
    return corpus


def _check_media(media: Media, name: str, corpus: Corpus, may_be_bad: bool) -> None:
    try:
        check_media(media)
    except UserError as problem:
        if not may_be_bad:
            raise UserError(f"{name}: {problem}") from problem
        corpus.unreadable.setdefault(media.path, f"{name}: {problem}")


class RowDataset(Dataset):
    """Rows of groups of samples. Indexed by a row of `rows(epoch)`.

    sampling: which frames of the clips are taken, uniform unless set; jitter's seed is drawn from that of the rows.
    """

    def __init__(self, samples: Sequence[Sample], groups: Groups, max_tokens_per_row: int | None, seed: int):
        """max_tokens_per_row None: every group is a row of its own."""
        self.samples = samples if isinstance(samples, Samples) else Samples(samples)
        self.groups, self.seed = groups, seed
        self.samples.finish()
        self.groups.finish()
        self.max_tokens_per_row, self.sampling = max_tokens_per_row, UNIFORM
        self._media = None if max_tokens_per_row is None else recurring_media(self.samples, groups)
        self._num_rows = len(groups) if max_tokens_per_row is None else len(self.rows(epoch=0))

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, epoch: int) -> Sequence[EpochRow]:
        """Indices of groups, row by row; a function of seed and epoch alone."""
        if self.max_tokens_per_row is None:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.groups))
            return Rows(order, np.arange(len(order)), np.ones(len(order)), epoch)
        return plan_rows(self.groups.num_tokens, self._media, self.max_tokens_per_row, self.seed, epoch)

    def without(self, row: EpochRow, left_out: Set[str]) -> EpochRow:
        """The groups of `row` that show none of the media whose `media_key` is in `left_out`."""
        kept = [index for index in row if left_out.isdisjoint(map(media_key, self._media_of(index)))]
        return EpochRow(kept, row.epoch)

    def _media_of(self, group: int) -> tuple[Media, ...]:
        return self.samples[self.groups[group].samples[0]].media

    def num_media_files(self) -> int:
        """Distinct ones."""
        return self.samples.num_files()

    def num_tokens(self, row: Sequence[int]) -> int:
        """In the decoder's input, visual and text tokens."""
        return sum(self.groups.num_tokens[index] for index in row)

    def kinds(self) -> set[str]:
        """The kinds of media, "image" and "video", that are in any row."""
        return self.samples.kinds

    def media(self) -> set[Media]:
        """Every picture and clip once, as the rows of any epoch have it; not for jitter."""
        return {replace(item, sampling=self.sampling) for item in self.samples.media()}

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
    samples = samples if isinstance(samples, Samples) else Samples(samples)
    groups = make_groups(
        samples.input_ids,
        samples.first_labels(),
        samples.media_numbers,
        {tokenizer.convert_tokens_to_ids(token): visual_tokens.of(kind) for kind, token in PLACEHOLDERS.items()},
        max_questions_per_clip,
        max_tokens_per_row,
    )
    return RowDataset(samples, groups, max_tokens_per_row, seed)


def recurring_media(samples: Samples, groups: Groups) -> Ragged:
    """Of each group the numbers of those media that other groups look at too: what may not meet in a row."""
    uses, recurring = array("i", [0]) * samples.num_media, Ragged("i")
    for sample in groups.first_samples():
        for number in samples.media_numbers[sample]:
            uses[number] += 1
    for sample in groups.first_samples():
        recurring.append(number for number in samples.media_numbers[sample] if uses[number] > 1)
    return recurring


def single_sample_rows(samples: Sequence[Sample], visual_tokens: VisualTokens, seed: int) -> RowDataset:
    """Every conversation by itself, for ordinary padded batches."""
    groups = Groups([num_tokens(sample, visual_tokens) for sample in samples])
    for index in range(len(samples)):
        groups.append([index], 0)
    return RowDataset(samples, groups, None, seed)


def num_tokens(sample: Sample, visual_tokens: VisualTokens) -> int:
    """Of a conversation in the decoder's input."""
    return len(sample.input_ids) + sum(visual_tokens.of(media.kind) - 1 for media in sample.media)
