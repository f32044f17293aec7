"""Rows of groups, planned before anything is decoded."""

from array import array
from bisect import bisect_left, insort
from collections.abc import Collection, Hashable, Sequence
from typing import overload

import numpy as np

# A group that meets this many rows with its own media opens a new one: a picture that is in every sample
# would otherwise make each group look through all rows.
MAX_REFUSALS = 64
# When an epoch packs anew, lengths count as equal within this part of a row: their order is left to chance, which costs
# next to no room.
LENGTHS_TOLD_APART = 64
NOTHING: frozenset[Hashable] = frozenset()


class EpochRow(list[int]):
    """Indices of the groups of a row, and the epoch it belongs to, which reaches the data loader's workers with it."""

    def __init__(self, groups: Sequence[int], epoch: int):
        super().__init__(groups)
        self.epoch = epoch


class EpochRows(Sequence[EpochRow]):
    """The rows of an epoch, in flat arrays: row i is groups[starts[i]:starts[i] + sizes[i]]."""

    def __init__(self, groups: np.ndarray, starts: np.ndarray, sizes: np.ndarray, epoch: int):
        self.groups, self.starts, self.sizes = (np.asarray(each, np.int32) for each in (groups, starts, sizes))
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> EpochRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[EpochRow]: ...

    def __getitem__(self, index: int | slice) -> EpochRow | list[EpochRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        start = self.starts[index]
        return EpochRow(self.groups[start : start + self.sizes[index]].tolist(), self.epoch)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def rows_of_one(num_groups: int, seed: int, epoch: int) -> EpochRows:
    """Make every group a row of its own, in an order that is drawn for the epoch."""
    order = np.random.default_rng((seed, epoch)).permutation(num_groups)
    return EpochRows(order, np.arange(num_groups), np.ones(num_groups), epoch)


def plan_rows(
    lengths: Sequence[int] | memoryview,
    media: Sequence[Collection[Hashable]],
    max_tokens: int,
    seed: int,
    epoch: int,
) -> EpochRows:
    """Pack groups into rows of at most `max_tokens`: indices of groups, row by row, every group once.

    lengths: tokens of each group; media: what each group looks at. Groups that look at the same clip or
    picture get different rows, so that a row sends each of its clips through the tower once without a second
    look for equals. Best fit, longest first. Each epoch packs anew and shuffles the rows, a function of its
    arguments alone, always into the same number of rows: a schedule of steps must not depend on the epoch.
    """
    tokens = np.asarray(lengths, dtype=np.int32)
    if len(tokens) and tokens.max() > max_tokens:
        raise ValueError(f"a group of {tokens.max()} tokens does not fit a row of {max_tokens}")
    # Packing without chance sets the number of rows. An epoch's own packing that needs fewer gets some rows halved; one
    # that needs more, which is rare, is given up for the packing without chance.
    base = _pack(np.argsort(-tokens, kind="stable"), tokens, media, max_tokens)
    random = np.random.default_rng((seed, epoch))
    coarse = tokens // max(1, max_tokens // LENGTHS_TOLD_APART)
    order, starts, sizes = _pack(np.lexsort((random.random(len(tokens)), -coarse)), tokens, media, max_tokens)
    num_rows = len(base[2])
    if len(sizes) <= num_rows:
        starts, sizes = _split_widest(starts, sizes, num_rows)
    else:
        order, starts, sizes = base
    shuffled = random.permutation(num_rows)
    return EpochRows(order, starts[shuffled], sizes[shuffled], epoch)


def _pack(
    order: np.ndarray, lengths: np.ndarray, media: Sequence[Collection[Hashable]], max_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the groups row by row, where each row starts among them, and how many it has; int32."""
    rows, tokens = _OpenRows(max_tokens), lengths.data  # a view, whose items are ints of Python and faster here
    row_of = array("i", (rows.place(tokens[group], media[group]) for group in order.data))
    sizes = np.bincount(row_of, minlength=rows.num_rows).astype(np.int32)
    starts = (np.cumsum(sizes) - sizes).astype(np.int32)
    return order.astype(np.int32)[np.argsort(row_of, kind="stable")], starts, sizes


class _OpenRows:
    """Rows that are being filled, found by the room they have left.

    Best fit asks for the row with the least room that suffices. Rooms are numbers of tokens, so there are at most
    `max_tokens` different ones, however many rows there are: a sorted list of them is searched by bisection, and behind
    each stands a stack of its rows.
    """

    def __init__(self, max_tokens: int):
        self.num_rows = 0
        self._media: dict[int, set[Hashable]] = {}  # of the rows that have any
        self._max_tokens = max_tokens
        self._with_room: dict[int, array[int]] = {}  # tokens left -> rows
        self._rooms: list[int] = []  # the keys of _with_room, ascending

    def place(self, length: int, media: Collection[Hashable]) -> int:
        """Put a group into a row and return the row's number."""
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
        """Take out the row with the least sufficient room that shows none of `media`, or a new one; with its room."""
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
    """Halve the rows with most groups until there are `num_rows`. The groups stay where they are: a half is a slice."""
    num_first = len(sizes)
    starts, sizes = (np.pad(numbers, (0, num_rows - num_first)) for numbers in (starts, sizes))
    for new in range(num_first, num_rows):
        widest = sizes[:new].argmax()
        half = sizes[widest] // 2
        starts[new], sizes[new] = starts[widest] + half, sizes[widest] - half
        sizes[widest] = half
    return starts, sizes
