"""Sources that are trained on more or less often than once an epoch."""

from collections.abc import Iterator, Sequence, Set
from itertools import chain, count, islice

import numpy as np
from torch.utils.data import Dataset

from data.media.frame_sampling import Sampling
from data.media.reference import Media
from data.packing.dataset import EpochRow, RowDataset
from data.packing.pack import Group
from data.tokens.encoding import Sample

SourceRow = tuple[int, EpochRow]
"""The number of a source, and one of its rows."""


class Mixture(Dataset):
    """The rows of several sources, shuffled together; of each source `weight` times its rows in every epoch.

    A weight of 2.5 is two whole passes, each packed anew, and half of the rows: those that come next in a walk over all
    of them that goes on from epoch to epoch. So every row is used 2 or 3 times in an epoch, and all of them 5 times in
    two. At least one row of a source is used. Rows are a function of seed and epoch alone, always as many.
    """

    def __init__(self, sources: Sequence[RowDataset], weights: Sequence[float], seed: int):
        self.sources, self.seed = list(sources), seed
        self.num_rows = [
            max(1, round(weight * len(source))) for source, weight in zip(sources, weights, strict=True)
        ]  # of each source in an epoch

    def __len__(self) -> int:
        return sum(self.num_rows)

    def rows(self, epoch: int) -> list[SourceRow]:
        rows = [(number, row) for number in range(len(self.sources)) for row in self._rows_of(number, epoch)]
        order = np.random.default_rng((self.seed, epoch, 1)).permutation(len(rows))
        return [rows[index] for index in order]

    def _rows_of(self, number: int, epoch: int) -> Iterator[EpochRow]:
        source = self.sources[number]
        num_passes, part = divmod(self.num_rows[number], len(source))
        # The passes of all epochs are numbered: jitter takes other frames in each, and a weight of 1 is the ordinary
        # sequence of epochs.
        first = epoch * (num_passes + (part > 0))
        for further in range(num_passes):
            yield from source.rows(first + further)
        if part:
            rows = source.rows(0)  # always packed in this way, or the walk would meet some groups more often
            for index in walk(len(source), part, self.seed, epoch):
                yield EpochRow(rows[index], first + num_passes)

    def num_tokens(self, row: SourceRow) -> int:
        number, groups = row
        return self.sources[number].num_tokens(groups)

    def kinds(self) -> set[str]:
        return set().union(*(source.kinds() for source in self.sources))

    def media(self) -> set[Media]:
        return set().union(*(source.media() for source in self.sources))

    def num_media_files(self) -> int:
        return len({item.path for item in self.media()})

    def without(self, row: SourceRow, left_out: Set[str]) -> SourceRow:
        number, groups = row
        return number, self.sources[number].without(groups, left_out)

    @property
    def samples(self) -> Iterator[Sample]:
        return chain.from_iterable(source.samples for source in self.sources)

    @property
    def sampling(self) -> Sampling:
        return self.sources[0].sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        for source in self.sources:
            source.sampling = sampling

    def __getitem__(self, row: SourceRow) -> list[tuple[Group, list[Sample]]]:
        number, groups = row
        return self.sources[number][groups]


def walk(num_rows: int, part: int, seed: int, epoch: int) -> np.ndarray:
    """`part` (0 < part <= num_rows) different indices below `num_rows`, in every epoch those that follow.

    All indices are taken once before any is taken again, and none twice in one epoch.
    """
    number, start = divmod(epoch * part, num_rows)
    orders = islice(_orders(num_rows, part, seed), number, number + 2)
    return np.concatenate(list(orders))[start : start + part]


def _orders(num_rows: int, part: int, seed: int) -> Iterator[np.ndarray]:
    """Permutations to walk through, one behind the other. Where one ends within an epoch, what this epoch took of it
    comes last in the next."""
    order = np.arange(0)
    for number in count():
        taken = order[num_rows - number * num_rows % part :]
        order = np.random.default_rng((seed, number)).permutation(num_rows)
        late = np.isin(order, taken)
        order = np.concatenate([order[~late], order[late]])
        yield order
