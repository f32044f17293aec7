"""The rows of each rank and step: every rank makes the same plan, without a word to the others."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Sampler

from data.packing.rows import LeftOut, PlannedRows, nothing_left_out


def num_micro_batches(num_rows: int, batch_size: int, num_ranks: int) -> int:
    """Return how many micro-batches each rank needs for one optimizer step, at most `batch_size` rows in each."""
    return -(-num_rows // (batch_size * num_ranks))


def deal(work: Sequence[int], batch_size: int, num_ranks: int) -> list[list[list[int]]]:
    """Deal the rows of one optimizer step: [micro-batch][rank] -> indices of rows, heaviest first.

    work: what each row costs, e.g. its tokens. Every row is dealt once. All ranks have equally many micro-batches, some
    of them empty where there are fewer rows than places: work 9 8 7 6 5 on two ranks becomes [[9], [8]], [[6], [7]],
    [[5], []].

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
    """Return the number of rows of each batch, one apart at most.

    Rows come heaviest first, so the smaller batches come first, too; only where some are empty do these come last, so
    that no micro-batch is empty on all ranks.
    """
    small, num_large = divmod(num_rows, max(num_batches, 1))
    return sorted([small + 1] * num_large + [small] * (num_batches - num_large), reverse=small == 0)


class RankBatchSampler(Sampler[list[Any]]):
    """The micro-batches of one rank in the epoch that is set: lists of plans, which index `rows`.

    Each `rows_per_step` rows in the order of `rows.rows` are one optimizer step, the last of an epoch may have
    fewer; on any number of ranks a step has the same rows. Ranks have equally many micro-batches, some may be empty.
    rows_per_step None: all rows are one step (evaluation).

    left_out: rows are dealt before media are taken out of them, so that ranks need not have learned the same yet.
    """

    def __init__(
        self,
        rows: PlannedRows,
        batch_size: int,
        rows_per_step: int | None = None,
        num_ranks: int = 1,
        rank: int = 0,
        left_out: LeftOut = nothing_left_out,
    ):
        self.rows, self.batch_size, self.left_out = rows, batch_size, left_out
        self.num_ranks, self.rank = num_ranks, rank
        self.rows_per_step = rows_per_step or max(len(rows), 1)
        self.epoch = 0

    @property
    def sampler(self) -> "RankBatchSampler":
        """The object whose `set_epoch` accelerate calls when a run continues within an epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        num_steps, rest = divmod(len(self.rows), self.rows_per_step)
        whole = num_micro_batches(self.rows_per_step, self.batch_size, self.num_ranks)
        return num_steps * whole + num_micro_batches(rest, self.batch_size, self.num_ranks)

    def __iter__(self) -> Iterator[list[Any]]:
        plans = self.rows.rows(self.epoch)
        starts = range(0, len(plans), self.rows_per_step)
        for number, start in enumerate(starts, start=self.epoch * len(starts) + 1):
            step = plans[start : start + self.rows_per_step]
            work = [self.rows.num_tokens(plan) for plan in step]
            for batches in deal(work, self.batch_size, self.num_ranks):
                own = [step[index] for index in batches[self.rank]]
                left_out = self.left_out(number)
                yield [self.rows.without(plan, left_out) for plan in own] if left_out else own
