"""Sources that are trained on more or less often than once an epoch."""

from collections.abc import Callable, Iterator, Sequence, Set
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from data.media.frame_sampling import FrameSampling
from data.media.reference import Media
from data.packing.dataset import RowDataset
from data.packing.fingerprint import fingerprint_samples
from data.packing.groups import Group
from data.packing.pack import EpochRow
from data.packing.rank_sampler import RankBatchSampler
from data.packing.rows import LeftOut, nothing_left_out
from data.tokens.encoding import Sample

SourceRow = tuple[int, EpochRow]
"""The number of a source, and one of its rows."""

SHUFFLING = 1  # tells the draw that shuffles the sources' rows from those that a source makes with the same seed


class Mixture(Dataset):
    """The rows of several sources, shuffled together: in every epoch `weight` times the rows of each source.

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
        order = np.random.default_rng((self.seed, epoch, SHUFFLING)).permutation(len(rows))
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

    def num_tokens(self, row: SourceRow) -> int:
        number, groups = row
        return self.sources[number].num_tokens(groups)

    def kinds(self) -> set[str]:
        return set().union(*(source.kinds() for source in self.sources))

    def media(self) -> set[Media]:
        return set().union(*(source.media() for source in self.sources))

    def num_samples(self) -> int:
        return sum(source.num_samples() for source in self.sources)

    def num_media_files(self) -> int:
        return len({item.path for item in self.media()})

    def without(self, row: SourceRow, left_out: Set[str]) -> SourceRow:
        number, groups = row
        return number, self.sources[number].without(groups, left_out)

    def fingerprint(self, imprint_of: Callable[[Media], tuple | None]) -> str:
        return fingerprint_samples([source.samples for source in self._in_order()], imprint_of)

    @property
    def samples(self) -> Iterator[Sample]:
        """Every sample in the order of the files."""
        return chain.from_iterable(source.samples for source in self._in_order())

    def _in_order(self) -> Sequence[RowDataset]:
        """Return rows that have all samples once, in the order of the files."""
        return self.sources

    @property
    def sampling(self) -> FrameSampling:
        return self.sources[0].sampling

    @sampling.setter
    def sampling(self, sampling: FrameSampling) -> None:
        for source in self.sources:
            source.sampling = sampling

    def __getitem__(self, index: SourceRow) -> list[tuple[Group, list[Sample]]]:
        number, groups = index
        return self.sources[number][groups]


def walk(num_rows: int, part: int, seed: int, epoch: int) -> np.ndarray:
    """Return `part` (0 < part <= num_rows) different indices below `num_rows`: in each epoch those that come next.

    The walk goes through one permutation of all rows after the other, `part` steps an epoch, so it uses all rows once
    before it uses any again. An epoch's place in it follows from its number: nothing is remembered. An epoch reads from
    two permutations at most, because it is no longer than one.
    """
    number, start = divmod(epoch * part, num_rows)
    orders = islice(_orders(num_rows, part, seed), number, number + 2)
    return np.concatenate(list(orders))[start : start + part]


def _orders(num_rows: int, part: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the permutations to walk through.

    An epoch that ends one permutation and begins the next could meet a row in both. So the rows that it takes from the
    end of one permutation are moved to the end of the next, where another epoch takes them.
    """
    order = np.arange(0)
    for number in count():
        taken = order[num_rows - number * num_rows % part :]
        order = np.random.default_rng((seed, number)).permutation(num_rows)
        late = np.isin(order, taken)
        order = np.concatenate([order[~late], order[late]])
        yield order
