"""The lengths of many samples, and their heads: what samples of one group have in common. Counted on arrays."""

from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.digests import Digests, digest
from data.tokens.columns import Ragged

AT_ONCE = 2**8  # samples: numpy is called often enough to be no burden, and little memory is taken


@dataclass(frozen=True)
class Heads:
    """Numbers of each sample, int32.

    numbers: equal for equal heads; lengths: in the decoder's input; own_prefixes: the prefix of a group that has this
    sample alone.
    """

    numbers: "array[int]"
    lengths: "array[int]"
    own_prefixes: "array[int]"


def heads_of(ids: Ragged, first_labels: np.ndarray, media: Ragged, visual_tokens: Mapping[int, int]) -> Heads:
    """Number the heads of samples in the order in which they come; see `make_groups` for the arguments.

    A head is everything up to the last placeholder, with the media. A sample that is trained before it has a head of
    its own, as has one without media.
    """
    numbers, seen = array("i"), Digests()
    lengths, own_prefixes = array("i"), array("i")
    last_head, last_number = None, 0
    tokens, items = ids.values.view(), media.values.view()
    ends, item_ends = (np.asarray(each.ends.view()) for each in (ids, media))
    for first in range(0, len(ids), AT_ONCE):
        bounds = ends[first : first + AT_ONCE + 1]
        labels = first_labels[first : first + AT_ONCE].astype(np.int64)
        several = _Several(np.asarray(tokens)[bounds[0] : bounds[-1]], bounds - bounds[0], visual_tokens)
        lengths.frombytes(several.lengths.astype(np.int32).tobytes())
        own_prefixes.frombytes(several.lengths_up_to(np.maximum(labels - 1, 0)).astype(np.int32).tobytes())
        head_lengths = several.up_to_last_placeholder()
        is_shared = (head_lengths > 0) & (head_lengths < labels)
        item_bounds = item_ends[first : first + AT_ONCE + 1]
        places = (bounds[:-1], head_lengths, item_bounds[:-1], item_bounds[1:], is_shared)
        for start, length, item, item_end, can_share in zip(*(each.tolist() for each in places), strict=True):
            if can_share:
                head = tokens[start : start + length], items[item:item_end]
                if head != last_head:  # questions about one clip follow one another
                    last_head, last_number = head, seen.number(digest(*head))
                numbers.append(last_number)
            else:  # no digest is as small as its place
                numbers.append(seen.number(len(numbers).to_bytes(16, "little")))
    return Heads(numbers, lengths, own_prefixes)


class _Several:
    """Samples one behind the other: `ids` (T,), of which sample i has those from bounds[i] to bounds[i + 1]."""

    def __init__(self, ids: np.ndarray, bounds: np.ndarray, visual_tokens: Mapping[int, int]):
        self.bounds = bounds
        counts = np.ones(len(ids), np.int64)
        for token, number in visual_tokens.items():
            counts[ids == token] = number
        self._lengths = np.concatenate([[0], np.cumsum(counts)])  # in the decoder's input
        self._placeholders = np.flatnonzero(np.isin(ids, list(visual_tokens)))

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self._lengths[self.bounds])

    def lengths_up_to(self, number: np.ndarray) -> np.ndarray:
        """Return the length of the first `number` ids of each sample."""
        starts, ends = self.bounds[:-1], self.bounds[1:]
        return self._lengths[np.minimum(starts + number, ends)] - self._lengths[starts]

    def up_to_last_placeholder(self) -> np.ndarray:
        """Return how many ids each sample has up to its last placeholder and with it; 0 without one."""
        behind = np.concatenate([[0], self._placeholders + 1])  # the place behind each placeholder, and 0 for none
        last = behind[np.searchsorted(self._placeholders, self.bounds[1:])]
        return np.maximum(last - self.bounds[:-1], 0)


def ragged(lists: Sequence[Sequence[Hashable]]) -> Ragged:
    """Return lists as columns; what is no number gets one, by its repr."""
    if isinstance(lists, Ragged):
        return lists
    made, known = Ragged("q"), dict[str, int]()
    for each in lists:
        made.append(item if isinstance(item, int) else known.setdefault(repr(item), len(known)) for item in each)
    return made


def taken(lists: Ragged, places: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of the lists at some places, one behind the other, and the number of each one's values."""
    values, ends, chosen = np.asarray(lists.values.view()), np.asarray(lists.ends.view()), np.asarray(places, np.int64)
    starts, sizes = ends[chosen], ends[chosen + 1] - ends[chosen]
    before = np.cumsum(sizes) - sizes
    return values[np.arange(sizes.sum()) + np.repeat(starts - before, sizes)], sizes
