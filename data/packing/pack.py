"""Which samples share a prefix, and which groups share a row: planned before anything is decoded."""

from array import array
from bisect import bisect_left, insort
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data.digests import Digests, digest
from data.errors import SettingError
from data.tokens.columns import Column, Ragged

# A group that meets this many rows with its own media opens a new one: a picture that is in every sample
# would otherwise make each group look through all rows.
MAX_REFUSALS = 64
NOTHING: frozenset = frozenset()


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
        """What `RowLayout` wants of a group."""
        return self.prefix_length, self.suffix_lengths

    def lay_out(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """One sequence from those of the group's samples (ids or labels, expanded), in their order.

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
        lengths = self._sample_lengths.view()
        self._samples.append(samples)
        self._prefix_lengths.append(prefix_length)
        self._num_tokens.append(prefix_length + sum(lengths[i] - prefix_length for i in samples))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Group:
        samples = tuple(self._samples[index])
        prefix_length, lengths = self._prefix_lengths.view()[index], self._sample_lengths.view()
        return Group(samples, prefix_length, tuple(lengths[i] - prefix_length for i in samples))

    def first_samples(self) -> Iterator[int]:
        """Of each group its first sample, whose media are those of all."""
        return (samples[0] for samples in self._samples)

    def finish(self) -> None:
        """As of `Samples`."""
        for column in (self._sample_lengths, self._prefix_lengths, self._num_tokens):
            column.view()
        self._samples.finish()

    @property
    def num_tokens(self) -> memoryview:
        """Of each group in a row."""
        return self._num_tokens.view()


def make_groups(
    input_ids: Sequence[Sequence[int]],
    first_labels: Sequence[int],
    media: Sequence[Sequence[Hashable]],
    visual_tokens: Mapping[int, int],
    max_questions_per_clip: int,
    max_tokens_per_row: int,
) -> Groups:
    """Group the samples that have the same media and the same tokens up to the end of the last one of them.

    Of each sample: input_ids, with one placeholder or all of its visual tokens; first_labels, the index in
    them of the first trained token; media, in order of appearance, told apart by their repr. visual_tokens:
    placeholder id -> how many tokens each stands for in the decoder's input. The lengths in the groups are those in
    the decoder's input.

    The prefix of a group is the longest common one that leaves every sample's first label, and the token that
    predicts it, to the suffix: one token of a prefix cannot predict the first words of several answers. A
    sample that is trained before its last visual token (a second clip after an answer) is a group of one, as is
    one without media. Equal conversations stay separate suffixes.

    A group has at most `max_questions_per_clip` samples and `max_tokens_per_row` tokens; more are split
    evenly. Raises SettingError for a sample that is longer than a row.
    """
    lengths, prefixes = array("i"), array("i")
    numbers = Digests()
    for index, (ids, items) in enumerate(zip(input_ids, media, strict=True)):
        ids = list(ids)
        head_length = max((len(ids) - ids[::-1].index(token) for token in visual_tokens if token in ids), default=0)
        can_share = 0 < head_length < first_labels[index]
        head = digest(array("i", ids[:head_length]).tobytes(), repr(tuple(items)).encode())
        prefixes.append(numbers.number(head if can_share else index.to_bytes(16, "little")))
        lengths.append(_expanded_length(ids, visual_tokens))
    if lengths and (longest := max(lengths)) > max_tokens_per_row:
        raise SettingError(
            "max_tokens_per_row",
            f"{max_tokens_per_row} is less than the {longest} tokens of conversation number "
            f"{lengths.index(longest) + 1}: raise it, or lower max_length",
        )

    groups = Groups(lengths)
    order = memoryview(np.argsort(prefixes, kind="stable"))
    ends = np.cumsum(np.bincount(prefixes)) if lengths else np.arange(0)
    del numbers, prefixes
    for start, end in pairwise(memoryview(np.insert(ends, 0, 0))):
        samples = order[start:end].tolist()
        longest_prefix = max(0, min(first_labels[i] for i in samples) - 1)
        num_shared = _common_prefix([input_ids[i] for i in samples], longest_prefix)
        prefix_length = _expanded_length(list(input_ids[samples[0]][:num_shared]), visual_tokens)
        suffix_lengths = [lengths[i] - prefix_length for i in samples]
        for part in _split(suffix_lengths, max_questions_per_clip, max_tokens_per_row - prefix_length):
            groups.append(samples[part], prefix_length)
    return groups


def _expanded_length(ids: list[int], visual_tokens: Mapping[int, int]) -> int:
    return len(ids) + sum(ids.count(token) * (number - 1) for token, number in visual_tokens.items())


def _common_prefix(input_ids: Sequence[Sequence[int]], length: int) -> int:
    """Length of the longest common prefix of at most `length` tokens."""
    first = input_ids[0]
    for ids in input_ids[1:]:
        length = next((i for i in range(length) if ids[i] != first[i]), length)
    return length


def _split(suffix_lengths: list[int], max_samples: int, max_tokens: int) -> list[slice]:
    """The fewest parts, one sample apart in size at most, within both limits. 7 samples by 3: 3, 2, 2."""
    num_samples = len(suffix_lengths)
    num_parts = max(-(-num_samples // max_samples), -(-sum(suffix_lengths) // max_tokens))
    while True:
        small, num_large = divmod(num_samples, num_parts)
        ends = [part * small + min(part, num_large) for part in range(num_parts + 1)]
        parts = [slice(start, end) for start, end in pairwise(ends)]
        if all(sum(suffix_lengths[part]) <= max_tokens for part in parts):
            return parts
        num_parts += 1


class EpochRow(list):
    """Indices of the groups of a row, and the epoch it belongs to, which reaches the data loader's workers with it."""

    def __init__(self, groups: Sequence[int], epoch: int):
        super().__init__(groups)
        self.epoch = epoch


class Rows(Sequence[EpochRow]):
    """The rows of an epoch, in flat arrays: row i is groups[starts[i]:starts[i] + sizes[i]]."""

    def __init__(self, groups: np.ndarray, starts: np.ndarray, sizes: np.ndarray, epoch: int):
        self.groups, self.starts, self.sizes = (numbers.astype(np.int32) for numbers in (groups, starts, sizes))
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        start = self.starts[index]
        return EpochRow(self.groups[start : start + self.sizes[index]].tolist(), self.epoch)

    def __eq__(self, other) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def plan_rows(
    lengths: Sequence[int], media: Sequence[Collection[Hashable]], max_tokens: int, seed: int, epoch: int
) -> Rows:
    """Pack groups into rows of at most `max_tokens`: indices of groups, row by row, every group once.

    lengths: tokens of each group; media: what each group looks at. Groups that look at the same clip or
    picture get different rows, so that a row sends each of its clips through the tower once without a second
    look for equals. Best fit, longest first. Each epoch packs anew and shuffles the rows, a function of its
    arguments alone, always into the same number of rows: a schedule of steps must not depend on the epoch.
    """
    lengths = np.asarray(lengths, dtype=np.int32)
    if len(lengths) and lengths.max() > max_tokens:
        raise ValueError(f"a group of {lengths.max()} tokens does not fit a row of {max_tokens}")
    base = _pack(np.argsort(-lengths, kind="stable"), lengths, media, max_tokens)
    random = np.random.default_rng((seed, epoch))
    # Lengths within 1/64 of a row count as equal, which leaves their order to chance and costs next to no
    # room.
    coarse = lengths // max(1, max_tokens // 64)
    order, starts, sizes = _pack(np.lexsort((random.random(len(lengths)), -coarse)), lengths, media, max_tokens)
    num_rows = len(base[2])
    if len(sizes) <= num_rows:
        starts, sizes = _split_widest(starts, sizes, num_rows)
    else:
        order, starts, sizes = base
    shuffled = random.permutation(num_rows)
    return Rows(order, starts[shuffled], sizes[shuffled], epoch)


def _pack(
    order: np.ndarray, lengths: np.ndarray, media: Sequence[Collection[Hashable]], max_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups row by row, where each row starts among them, and how many it has; int32."""
    rows, lengths = _Rows(max_tokens), memoryview(lengths)
    row_of = array("i", (rows.place(lengths[group], media[group]) for group in memoryview(order)))
    sizes = np.bincount(row_of, minlength=rows.num_rows).astype(np.int32)
    starts = (np.cumsum(sizes) - sizes).astype(np.int32)
    return order.astype(np.int32)[np.argsort(row_of, kind="stable")], starts, sizes


class _Rows:
    """Rows that are being filled, found by the room they have left."""

    def __init__(self, max_tokens: int):
        self.num_rows = 0
        self._media: dict[int, set] = {}  # of the rows that have any
        self._max_tokens = max_tokens
        self._with_room: dict[int, array] = {}  # tokens left -> rows
        self._rooms: list[int] = []  # the keys of _with_room, ascending

    def place(self, length: int, media: Collection[Hashable]) -> int:
        """The row that a group gets."""
        row, room = self._take(length, media)
        if len(media):
            self._media.setdefault(row, set()).update(media)
        room -= length
        if room not in self._with_room:
            insort(self._rooms, room)
            self._with_room[room] = array("i")
        self._with_room[room].append(row)
        return row

    def _take(self, length: int, media: Collection[Hashable]) -> tuple[int, int]:
        """The row with the least sufficient room that shows none of `media`, or a new one; and its room."""
        refusals = 0
        for place in range(bisect_left(self._rooms, length), len(self._rooms)):
            room = self._rooms[place]
            rows = self._with_room[room]
            for last in range(len(rows) - 1, -1, -1):
                if not len(media) or self._media.get(rows[last], NOTHING).isdisjoint(media):
                    row = rows.pop(last)
                    if not rows:
                        del self._with_room[room], self._rooms[place]
                    return row, room
                refusals += 1
                if refusals == MAX_REFUSALS:
                    return self._open()
        return self._open()

    def _open(self) -> tuple[int, int]:
        self.num_rows += 1
        return self.num_rows - 1, self._max_tokens


def _split_widest(starts: np.ndarray, sizes: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Halve the rows with most groups until there are `num_rows`."""
    num_first = len(sizes)
    starts, sizes = (np.pad(numbers, (0, num_rows - num_first)) for numbers in (starts, sizes))
    for new in range(num_first, num_rows):
        widest = sizes[:new].argmax()
        half = sizes[widest] // 2
        starts[new], sizes[new] = starts[widest] + half, sizes[widest] - half
        sizes[widest] = half
    return starts, sizes
