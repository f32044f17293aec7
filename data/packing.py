"""Which samples share a prefix, and which groups share a row: planned before anything is decoded."""

from array import array
from bisect import bisect_left, insort
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data.errors import UserError

# A group that meets this many rows with its own media opens a new one: a picture that is in every sample
# would otherwise make each group look through all rows.
MAX_REFUSALS = 64


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
    """The groups of a data set in flat arrays: a million small tuples weigh hundreds of MB in each worker."""

    def __init__(self, sample_lengths: Sequence[int]):
        self._sample_lengths = array("i", sample_lengths)
        self._samples = array("q")
        self._ends = array("q", [0])
        self._prefix_lengths = array("i")

    def append(self, samples: Sequence[int], prefix_length: int) -> None:
        self._samples.extend(samples)
        self._ends.append(len(self._samples))
        self._prefix_lengths.append(prefix_length)

    def __len__(self) -> int:
        return len(self._prefix_lengths)

    def __getitem__(self, index: int) -> Group:
        index = range(len(self))[index]
        samples = tuple(self._samples[self._ends[index] : self._ends[index + 1]])
        prefix_length = self._prefix_lengths[index]
        return Group(samples, prefix_length, tuple(self._sample_lengths[i] - prefix_length for i in samples))

    def lengths(self) -> list[int]:
        """Tokens of each group in a row."""
        return [group.prefix_length + sum(group.suffix_lengths) for group in self]


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
    them of the first trained token; media, in order of appearance. visual_tokens: placeholder id -> how many
    tokens each stands for in the decoder's input. The lengths in the groups are those in the decoder's
    input.

    The prefix of a group is the longest common one that leaves every sample's first label, and the token that
    predicts it, to the suffix: one token of a prefix cannot predict the first words of several answers. A
    sample that is trained before its last visual token (a second clip after an answer) is a group of one, as is
    one without media. Equal conversations stay separate suffixes.

    A group has at most `max_questions_per_clip` samples and `max_tokens_per_row` tokens; more are split
    evenly. Raises UserError for a sample that is longer than a row.
    """
    lengths = [_expanded_length(ids, visual_tokens) for ids in input_ids]
    if lengths and (longest := max(lengths)) > max_tokens_per_row:
        raise UserError(
            f"data.max_tokens_per_row: {max_tokens_per_row} is less than the {longest} tokens of "
            f"conversation number {lengths.index(longest) + 1}: raise it, or lower data.max_length"
        )
    sharing: dict[Hashable, list[int]] = {}
    for index, (ids, first_label) in enumerate(zip(input_ids, first_labels, strict=True)):
        head_length = max((i + 1 for i, token in enumerate(ids) if token in visual_tokens), default=0)
        can_share = 0 < head_length < first_label
        key = (tuple(ids[:head_length]), tuple(media[index])) if can_share else index
        sharing.setdefault(key, []).append(index)

    groups = Groups(lengths)
    for samples in sharing.values():
        longest_prefix = max(0, min(first_labels[i] for i in samples) - 1)
        num_shared = _common_prefix([input_ids[i] for i in samples], longest_prefix)
        prefix_length = _expanded_length(input_ids[samples[0]][:num_shared], visual_tokens)
        suffix_lengths = [lengths[i] - prefix_length for i in samples]
        for part in _split(suffix_lengths, max_questions_per_clip, max_tokens_per_row - prefix_length):
            groups.append(samples[part], prefix_length)
    return groups


def _expanded_length(ids: Sequence[int], visual_tokens: Mapping[int, int]) -> int:
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


def plan_rows(
    lengths: Sequence[int], media: Sequence[Collection[Hashable]], max_tokens: int, seed: int, epoch: int
) -> list[list[int]]:
    """Pack groups into rows of at most `max_tokens`: indices of groups, row by row, every group once.

    lengths: tokens of each group; media: what each group looks at. Groups that look at the same clip or
    picture get different rows, so that a row sends each of its clips through the tower once without a second
    look for equals. Best fit, longest first. Each epoch packs anew and shuffles the rows, a function of its
    arguments alone, always into the same number of rows: a schedule of steps must not depend on the epoch.
    """
    lengths = np.asarray(lengths)
    if len(lengths) and lengths.max() > max_tokens:
        raise ValueError(f"a group of {lengths.max()} tokens does not fit a row of {max_tokens}")
    base = _pack(np.argsort(-lengths, kind="stable"), lengths, media, max_tokens)
    random = np.random.default_rng((seed, epoch))
    # Lengths within 1/64 of a row count as equal, which leaves their order to chance and costs next to no
    # room.
    coarse = lengths // max(1, max_tokens // 64)
    rows = _pack(np.lexsort((random.random(len(lengths)), -coarse)), lengths, media, max_tokens)
    rows = _split_widest(rows, len(base)) if len(rows) <= len(base) else base
    return [rows[i] for i in random.permutation(len(rows))]


def _pack(order: np.ndarray, lengths: np.ndarray, media: Sequence[Collection[Hashable]], max_tokens: int):
    rows = _Rows(max_tokens)
    for group in order.tolist():
        rows.place(group, int(lengths[group]), media[group])
    return rows.rows


class _Rows:
    """Rows that are being filled, found by the room they have left."""

    def __init__(self, max_tokens: int):
        self.rows: list[list[int]] = []
        self._media: list[set] = []
        self._max_tokens = max_tokens
        self._with_room: dict[int, list[int]] = {}  # tokens left -> rows
        self._rooms: list[int] = []  # the keys of _with_room, ascending

    def place(self, group: int, length: int, media: Collection[Hashable]) -> None:
        row, room = self._take(length, media)
        self.rows[row].append(group)
        self._media[row].update(media)
        room -= length
        if room not in self._with_room:
            insort(self._rooms, room)
        self._with_room.setdefault(room, []).append(row)

    def _take(self, length: int, media: Collection[Hashable]) -> tuple[int, int]:
        """The row with the least sufficient room that shows none of `media`, or a new one; and its room."""
        refusals = 0
        for place in range(bisect_left(self._rooms, length), len(self._rooms)):
            room = self._rooms[place]
            rows = self._with_room[room]
            for last in range(len(rows) - 1, -1, -1):
                if self._media[rows[last]].isdisjoint(media):
                    row = rows.pop(last)
                    if not rows:
                        del self._with_room[room], self._rooms[place]
                    return row, room
                refusals += 1
                if refusals == MAX_REFUSALS:
                    return self._open()
        return self._open()

    def _open(self) -> tuple[int, int]:
        self.rows.append([])
        self._media.append(set())
        return len(self.rows) - 1, self._max_tokens


def _split_widest(rows: list[list[int]], num_rows: int) -> list[list[int]]:
    """Halve the rows with most groups until there are `num_rows`."""
    while len(rows) < num_rows:
        widest = max(range(len(rows)), key=lambda i: len(rows[i]))
        row = rows[widest]
        rows[widest] = row[: len(row) // 2]
        rows.append(row[len(row) // 2 :])
    return rows
