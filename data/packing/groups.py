"""Groups of samples that share a prefix, planned before anything is decoded."""

from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self, overload

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.errors import SettingError
from data.packing.heads import AT_ONCE, heads_of, ragged, taken
from data.tokens.columns import Column, Ragged
from data.tokens.encoding import num_tokens, placeholder_ids
from data.tokens.samples import Samples
from data.video_llava import VisualTokens

NUMBERS = ("_sample_lengths", "_prefix_lengths", "_num_tokens")  # columns of `Groups`


@dataclass(frozen=True, slots=True)
class Group:
    """Samples behind one shared prefix, laid out as [prefix | suffix 1 | ... | suffix k]. Lengths in tokens.

    samples: indices into the data set; their order means nothing to the loss and may be shuffled with their
        suffix lengths.
    suffix_lengths: one for each sample.
    """

    samples: tuple[int, ...]
    prefix_length: int
    suffix_lengths: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, tuple[int, ...]]:
        """The group as `RowLayout` takes it."""
        return self.prefix_length, self.suffix_lengths

    def lay_out(self, sequences: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
        """Join the sequences of the group's samples (ids or labels, expanded), which come in their order.

        [1, 2, 3] and [1, 2, 4, 5] with a prefix of 2 tokens become [1, 2, 3, 4, 5].
        """
        arrays = [np.asarray(sequence) for sequence in sequences]
        return np.concatenate([arrays[0][: self.prefix_length], *(a[self.prefix_length :] for a in arrays)])


class Groups(Sequence[Group]):
    """The groups of a data set in columns: a million small tuples weigh hundreds of MB in each worker."""

    def __init__(self, sample_lengths: Sequence[int]):
        self._sample_lengths = Column("i", sample_lengths)
        self._samples, self._prefix_lengths, self._num_tokens = Ragged("i"), Column("i"), Column("i")

    def append(self, samples: Sequence[int], prefix_length: int) -> None:
        self.join(np.array(samples, np.int32), np.array([len(samples)]), np.array([prefix_length], np.int32))

    def join(self, samples: np.ndarray, sizes: np.ndarray, prefix_lengths: np.ndarray) -> None:
        """Append groups: their samples, one behind the other, int32; how many each has; the length of its prefix."""
        lengths, prefixes = np.asarray(self._sample_lengths.view()), prefix_lengths.astype(np.int32)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        suffixes = np.concatenate([[0], np.cumsum(lengths[samples] - np.repeat(prefixes, sizes), dtype=np.int64)])
        self._num_tokens.join((prefixes + np.diff(suffixes[ends])).astype(np.int32))
        self._prefix_lengths.join(prefixes)
        self._samples.join(samples.astype(np.int32), ends)

    def only(self, numbers: Iterable[int]) -> "Groups":
        """Return those of these numbers, of the same samples."""
        chosen, places = Groups(self._sample_lengths.view()), np.fromiter(numbers, np.int64)
        chosen.join(*taken(self._samples, places), np.asarray(self._prefix_lengths.view())[places])
        return chosen

    def columns(self) -> dict[str, Column]:
        """Return all columns by name."""
        numbers = {name: getattr(self, name) for name in NUMBERS}
        return {**numbers, **self._samples.columns("_samples")}

    @classmethod
    def of(cls, columns: Mapping[str, Column]) -> Self:
        """Return what `columns` gave; nothing is appended to it."""
        groups = cls([])
        for name in NUMBERS:
            setattr(groups, name, columns[name])
        groups._samples = Ragged.of(columns, "_samples")
        return groups

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Group: ...

    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...

    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        samples = tuple(self._samples[index])
        prefix_length, lengths = self._prefix_lengths.view()[index], self._sample_lengths.view()
        return Group(samples, prefix_length, tuple(lengths[i] - prefix_length for i in samples))

    def first_samples(self) -> np.ndarray:
        """Return one sample of each group, int32; all samples of a group have its media."""
        return np.asarray(self._samples.values.view())[np.asarray(self._samples.ends.view())[:-1]]

    def finish(self) -> None:
        """Write everything into the files that processes share; nothing is appended after this."""
        for column in (self._sample_lengths, self._prefix_lengths, self._num_tokens):
            column.view()
        self._samples.finish()

    @property
    def num_tokens(self) -> memoryview:
        """The length of each group in a row."""
        return self._num_tokens.view()


def shared_prefix_groups(
    samples: Samples,
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    max_questions_per_clip: int,
    max_tokens_per_row: int,
) -> Groups:
    """Group the questions about one clip behind one copy of it (see `make_groups`)."""
    return make_groups(
        samples.input_ids,
        samples.first_labels(),
        samples.media_numbers,
        {number: visual_tokens.of(kind) for kind, number in placeholder_ids(tokenizer).items()},
        max_questions_per_clip,
        max_tokens_per_row,
    )


def groups_of_one(samples: Samples, visual_tokens: VisualTokens) -> Groups:
    """Make a group of every sample, without a prefix."""
    groups = Groups([num_tokens(sample, visual_tokens) for sample in samples])
    number = len(samples)
    groups.join(np.arange(number), np.ones(number, np.int64), np.zeros(number))
    return groups


def recurring_media(samples: Samples, groups: Groups) -> Ragged:
    """Return for each group the numbers of those of its media that other groups show too: these must not share a row.

    Media of one group alone cannot meet themselves, and most are such: leaving them out keeps packing fast.
    """
    first_samples, uses, recurring = groups.first_samples(), np.zeros(samples.num_media, np.int32), Ragged("i")
    parts = [first_samples[first : first + AT_ONCE] for first in range(0, len(first_samples), AT_ONCE)]
    for part in parts:
        np.add.at(uses, taken(samples.media_numbers, part)[0], 1)
    for part in parts:
        media, sizes = taken(samples.media_numbers, part)
        is_recurring, ends = uses[media] > 1, np.concatenate([[0], np.cumsum(sizes)])
        recurring.join(media[is_recurring], np.concatenate([[0], np.cumsum(is_recurring)])[ends])
    return recurring


def make_groups(
    input_ids: Sequence[Sequence[int]],
    first_labels: Sequence[int],
    media: Sequence[Sequence[Hashable]],
    visual_tokens: Mapping[int, int],
    max_questions_per_clip: int,
    max_tokens_per_row: int,
) -> Groups:
    """Group the samples that have the same media and the same tokens up to the end of the last one of them.

    The arguments hold for each sample: input_ids, with one placeholder or all of its visual tokens; first_labels, the
    index in them of the first trained token; media, in order of appearance, told apart by their repr. visual_tokens:
    placeholder id -> how many tokens each stands for in the decoder's input. The lengths in the groups are those in
    the decoder's input.

    The prefix of a group is the longest common one that leaves every sample's first label, and the token that
    predicts it, to the suffix: one token of a prefix cannot predict the first words of several answers. A
    sample that is trained before its last visual token (a second clip after an answer) is a group of one, as is
    one without media. Equal conversations stay separate suffixes.

    A group has at most `max_questions_per_clip` samples and `max_tokens_per_row` tokens; more are split
    evenly. Raises SettingError for a sample that is longer than a row.
    """
    ids, labels = ragged(input_ids), np.asarray(first_labels)
    heads = heads_of(ids, labels, ragged(media), visual_tokens)
    lengths = heads.lengths
    if lengths and (longest := max(lengths)) > max_tokens_per_row:
        raise SettingError(
            "max_tokens_per_row",
            f"{max_tokens_per_row} is less than the {longest} tokens of conversation number "
            f"{lengths.index(longest) + 1}: raise it, or lower max_length",
        )

    groups = Groups(lengths)
    members, sizes, prefix_lengths = array("i"), array("i"), array("i")
    # Sorted by head, the samples of a group stand together, in the order of the data: flat arrays, where a dict of
    # lists would hold a million Python objects.
    order = np.argsort(heads.numbers, kind="stable").astype(np.int32).data
    ends = np.cumsum(np.bincount(heads.numbers)) if lengths else np.arange(0)
    for start, end in pairwise(np.insert(ends, 0, 0).data):
        samples = order[start:end].tolist()
        if len(samples) == 1:
            prefix_length, parts = heads.own_prefixes[samples[0]], [slice(1)]
        else:
            num_shared = _common_prefix(ids, samples, max(0, labels[samples].min() - 1))
            prefix_length = _expanded_length(list(ids[samples[0]][:num_shared]), visual_tokens)
            suffix_lengths = [lengths[i] - prefix_length for i in samples]
            parts = _split(suffix_lengths, max_questions_per_clip, max_tokens_per_row - prefix_length)
        for part in parts:
            members.extend(samples[part])
            sizes.append(len(samples[part]))
            prefix_lengths.append(prefix_length)
        if len(sizes) >= AT_ONCE or end == len(order):
            groups.join(*map(np.asarray, (members, sizes, prefix_lengths)))
            members, sizes, prefix_lengths = array("i"), array("i"), array("i")
    return groups


def _expanded_length(ids: list[int], visual_tokens: Mapping[int, int]) -> int:
    return len(ids) + sum(ids.count(token) * (number - 1) for token, number in visual_tokens.items())


def _common_prefix(ids: Ragged, samples: Sequence[int], length: int) -> int:
    """Return the length of the longest common prefix of some samples, of at most `length` tokens."""
    values, starts = np.asarray(ids.values.view()), np.asarray(ids.ends.view())[samples]
    for first in range(0, len(starts), AT_ONCE):
        prefixes = values[starts[first : first + AT_ONCE, None] + np.arange(length)]
        if len(differs := np.flatnonzero((prefixes != values[starts[0] : starts[0] + length]).any(axis=0))):
            length = int(differs[0])
    return length


def _split(suffix_lengths: list[int], max_samples: int, max_tokens: int) -> list[slice]:
    """Return the fewest parts, one sample apart in size at most, within both limits. 7 samples by 3: 3, 2, 2."""
    num_samples = len(suffix_lengths)
    num_parts = max(-(-num_samples // max_samples), -(-sum(suffix_lengths) // max_tokens))
    while True:
        small, num_large = divmod(num_samples, num_parts)
        ends = [part * small + min(part, num_large) for part in range(num_parts + 1)]
        parts = [slice(start, end) for start, end in pairwise(ends)]
        if all(sum(suffix_lengths[part]) <= max_tokens for part in parts):
            return parts
        num_parts += 1
