"""Which rank computes which rows, and when: every rank makes the same plan, without a word to the others."""

from collections.abc import Callable, Iterator, Sequence, Set

from torch.utils.data import Sampler

from data.packing.dataset import RowDataset


def num_micro_batches(num_rows: int, batch_size: int, num_ranks: int) -> int:
    """Micro-batches of each rank that `num_rows` rows of one optimizer step need, at most `batch_size` rows each."""
    return -(-num_rows // (batch_size * num_ranks))


def deal(work: Sequence[int], batch_size: int, num_ranks: int) -> list[list[list[int]]]:
    """Deal the rows of one optimizer step: [micro-batch][rank] -> indices of rows, heaviest first.

    work: of each row, e.g. its tokens. Every row is dealt once. All ranks have as many micro-batches, some of them
    empty where there are fewer rows than places: work 9 8 7 6 5 on two ranks becomes [[9], [8]], [[6], [7]], [[5], []].

    What meets in one micro-batch is about equally heavy, over the ranks too: with sharded weights they wait for each
    other in every layer. And the ranks' sums are about equal: each time the heaviest goes to the rank that has least.
    """
    order = sorted(range(len(work)), key=lambda row: -work[row])
    sizes = _sizes(len(work), num_micro_batches(len(work), batch_size, num_ranks) * num_ranks)
    dealt, done, load = [], 0, [0] * num_ranks
    for start in range(0, len(sizes), num_ranks):
        batches: list[list[int]] = [[] for _ in range(num_ranks)]
        ranks = sorted(range(num_ranks), key=lambda rank: load[rank])
        for rank, size in zip(ranks, sizes[start : start + num_ranks], strict=True):
            batches[rank] = order[done : done + size]
            load[rank] += sum(work[row] for row in batches[rank])
            done += size
        dealt.append(batches)
    return dealt


def _sizes(num_rows: int, num_batches: int) -> list[int]:
    """Rows of each batch, one apart at most: heavy batches have fewer rows, and empty ones come last."""
    small, num_large = divmod(num_rows, max(num_batches, 1))
    return sorted([small + 1] * num_large + [small] * (num_batches - num_large), reverse=small == 0)


class RankBatchSampler(Sampler[list[list[int]]]):
    """The micro-batches of one rank in the epoch that is set: lists of rows, which index a `RowDataset`.

    Each `rows_per_step` rows in the order of `RowDataset.rows` are one optimizer step, the last of an epoch may have
    fewer; on any number of ranks a step has the same rows. Ranks have equally many micro-batches, some may be empty.
    rows_per_step None: all rows are one step (evaluation).

    left_out: optimizer step, from 1 over all epochs -> `media_key` of what its rows lack. Rows are dealt before, so
    that ranks need not have learned the same yet.
    """

    def __init__(
        self,
        dataset: RowDataset,
        batch_size: int,
        rows_per_step: int | None = None,
        num_ranks: int = 1,
        rank: int = 0,
        left_out: Callable[[int], Set[str]] = lambda step: frozenset(),
    ):
        self.left_out = left_out
        self.dataset, self.batch_size, self.num_ranks, self.rank = dataset, batch_size, num_ranks, rank
        self.rows_per_step = rows_per_step or max(len(dataset), 1)
        self.epoch = 0

    @property
    def sampler(self) -> "RankBatchSampler":
        """Where accelerate looks for `set_epoch` when a run continues within an epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        num_steps, rest = divmod(len(self.dataset), self.rows_per_step)
        whole = num_micro_batches(self.rows_per_step, self.batch_size, self.num_ranks)
        return num_steps * whole + num_micro_batches(rest, self.batch_size, self.num_ranks)

    def __iter__(self) -> Iterator[list[list[int]]]:
        rows = self.dataset.rows(self.epoch)
        steps = range(0, len(rows), self.rows_per_step)
        for number, start in enumerate(steps, start=self.epoch * len(steps) + 1):
            step = rows[start : start + self.rows_per_step]
            work = [self.dataset.num_tokens(row) for row in step]
            for batches in deal(work, self.batch_size, self.num_ranks):
                own = [step[index] for index in batches[self.rank]]
                left_out = self.left_out(number)
                yield [self.dataset.without(row, left_out) for row in own] if left_out else own
