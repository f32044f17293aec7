"""The global batch plan: every row once, equal numbers of micro-batches, balanced work, on any number of ranks."""

from collections import Counter
from itertools import pairwise

import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import DataLoaderShard
from hypothesis import given
from hypothesis import strategies as st

from data.packing.rank_sampler import RankBatchSampler, deal


class Rows:
    """Stands for a RowDataset: `num_rows` rows of one group each, in another order every epoch."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __len__(self):
        return len(self.tokens)

    def rows(self, epoch):
        order = list(range(len(self)))
        shift = epoch % len(self) if self.tokens else 0
        return [[group] for group in order[shift:] + order[:shift]]

    def num_tokens(self, row):
        return sum(self.tokens[group] for group in row)

    def __getitem__(self, row):
        return row


def test_written_out():
    assert deal([9, 8, 7, 6, 5], batch_size=1, num_ranks=2) == [[[0], [1]], [[3], [2]], [[4], []]]
    assert deal([1, 2, 3, 4], batch_size=4, num_ranks=2) == [[[3, 2], [1, 0]]]
    assert deal([5, 1, 1], batch_size=2, num_ranks=2) == [[[0], [1, 2]]]
    assert deal([3], batch_size=1, num_ranks=3) == [[[0], [], []]]
    assert deal([], batch_size=1, num_ranks=3) == []


sizes = st.integers(1, 5)


@given(st.lists(st.integers(1, 10_000), max_size=60), sizes, st.integers(1, 9))
def test_every_row_of_a_step_is_dealt_once(work, batch_size, num_ranks):
    dealt = deal(work, batch_size, num_ranks)
    assert sorted(row for batches in dealt for batch in batches for row in batch) == list(range(len(work)))
    assert all(len(batches) == num_ranks for batches in dealt)
    lengths = [len(batch) for batches in dealt for batch in batches]
    assert max(lengths, default=0) <= batch_size and max(lengths, default=0) - min(lengths, default=0) <= 1
    assert all(any(batches) for batches in dealt)  # no micro-batch is empty on all ranks
    assert dealt == deal(work, batch_size, num_ranks)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=60), st.integers(1, 9))
def test_ranks_get_as_much_work_as_each_other(work, num_ranks):
    dealt = [[sum(work[row] for row in batch) for batch in batches] for batches in deal(work, 1, num_ranks)]
    load = [sum(rank) for rank in zip(*dealt, strict=True)]
    assert max(load) - min(load) <= max(work)
    for batches, lighter in pairwise(dealt):  # what meets in a micro-batch stood together in the order of work
        assert min(batches) >= max(lighter)


def epoch_of(rows, ranks, batch_size, rows_per_step, epoch=0):
    samplers = [RankBatchSampler(rows, batch_size, rows_per_step, ranks, rank) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return samplers, [list(sampler) for sampler in samplers]


@given(
    st.lists(st.integers(1, 999), min_size=1, max_size=50),
    st.integers(1, 7),
    sizes,
    st.integers(1, 20),
    st.integers(0, 3),
)
def test_an_epoch_has_the_same_steps_on_any_number_of_ranks(tokens, ranks, batch_size, rows_per_step, epoch):
    rows = Rows(tokens)
    samplers, batches = epoch_of(rows, ranks, batch_size, rows_per_step, epoch)
    assert {len(sampler) for sampler in samplers} == {len(own) for own in batches} == {len(samplers[0])}
    used = Counter(tuple(row) for own in batches for batch in own for row in batch)
    assert used == Counter(tuple(row) for row in rows.rows(epoch))
    # Trainer counts the steps of an epoch from the number of micro-batches; each has the rows of one process.
    accumulated = -(-rows_per_step // (batch_size * ranks))
    steps = [
        sorted(row for own in batches for batch in own[start : start + accumulated] for row in batch)
        for start in range(0, len(samplers[0]), accumulated)
    ]
    order = rows.rows(epoch)
    assert steps == [sorted(order[start : start + rows_per_step]) for start in range(0, len(order), rows_per_step)]


def test_evaluation_is_one_step():
    _, batches = epoch_of(Rows([5, 4, 3, 2, 1]), ranks=2, batch_size=2, rows_per_step=None)
    assert (
        batches == [[[[0]], [[4], [3]]], [[[1]], [[2]]]] or sum(map(len, batches[0])) + sum(map(len, batches[1])) == 5
    )


@pytest.mark.parametrize("skipped", [0, 1, 3])
def test_skipped_batches_are_not_read(skipped):
    read = []

    class Recording(Rows):
        def __getitem__(self, row):
            read.append(row)
            return row

    rows = Recording([3, 1, 2, 5, 4])
    loader = DataLoaderShard(rows, batch_sampler=RankBatchSampler(rows, 1, 2), collate_fn=list)
    loader = skip_first_batches(loader, skipped)
    loader.set_epoch(2)
    expected = list(epoch_of(rows, 1, 1, 2, epoch=2)[1][0])[skipped:]
    assert list(loader) == expected
    assert read == [row for batch in expected for row in batch]
