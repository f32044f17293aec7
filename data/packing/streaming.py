"""Rows of conversations that are read while training runs: a window of them in memory, epoch after epoch, for ever."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, Sampler

from data.errors import UserError, many
from data.media.bad_media import media_key
from data.media.frame_sampling import UNIFORM
from data.media.reference import Media
from data.packing.dataset import RowDataset
from data.packing.fingerprint import fingerprint_files
from data.packing.groups import Group
from data.packing.rank_sampler import deal, num_micro_batches
from data.packing.rows import LeftOut, nothing_left_out
from data.packing.window_counts import WINDOW_COUNTS, WindowCounts
from data.sources.conversation import Conversation
from data.tokens.corpus import Corpus
from data.tokens.encoding import Sample
from data.tokens.samples import Samples

logger = logging.getLogger(__name__)

MAX_NOTICES = 3  # windows whose left-out conversations are told; a stream may have thousands of windows


class StreamedRow(list[tuple[Group, list[Sample]]]):
    """The groups of a row with their samples: the data loader's workers have no data set to look them up in."""

    def __init__(self, groups: Iterable[tuple[Group, list[Sample]]], num_tokens: int):
        super().__init__(groups)
        self.num_tokens = num_tokens


NO_ROW = None  # an empty row would be one whose media are all left out, on this rank alone


class RowStream(Dataset):
    """The rows of all conversations in the order in which they are read, `window` of them packed and shuffled together.

    Satisfies `data.packing.rows.Rows`; a plan is the row itself.

    read: returns a new iterator over the conversations, the same ones each time. It opens none of their media.
    encode: conversations -> the name and the sample of each, None where it is too long.
    pack: samples and a seed -> their rows. With a window that holds all conversations, the rows of every epoch are
        those of `pack(samples, seed)`.
    files: names and sizes in bytes of what `read` reads; read_as: how it reads them, where that is not the usual way.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, int]],
        read: Callable[[], Iterator[Conversation]],
        encode: Callable[[Iterable[Conversation]], Iterable[tuple[str, Sample | None]]],
        pack: Callable[[Samples, int], RowDataset],
        *,
        window: int,
        max_length: int,
        seed: int,
        read_as: str = "",
    ):
        self.files, self.read, self.encode, self.pack = files, read, encode, pack
        self.window, self.max_length, self.seed = window, max_length, seed
        self.read_as, self.sampling, self.counts = read_as, UNIFORM, WindowCounts()
        self._num_skipped = self._num_notices = 0

    def begin(self, num_steps_done: int, folder: Path, writes: bool) -> None:
        """Give out the first steps empty. Windows within them are not planned again where an earlier run has noted how
        many rows they make."""
        self.counts = WindowCounts(folder / WINDOW_COUNTS, writes)
        self._num_skipped = num_steps_done
        if num_steps_done:
            self.counts.load()

    def batches(
        self,
        batch_size: int,
        rows_per_step: int | None,
        num_ranks: int = 1,
        rank: int = 0,
        left_out: LeftOut = nothing_left_out,
    ) -> "StreamBatchSampler":
        assert rows_per_step, "a stream has no end, so it cannot be one step"
        return StreamBatchSampler(self, batch_size, rows_per_step, num_ranks, rank, left_out)

    def steps(self, rows_per_step: int) -> Iterator[list[StreamedRow]]:
        """Yield the rows of one optimizer step after the other. A step may span windows, but not epochs: the last step
        of an epoch may have fewer rows."""
        number = 0
        for epoch in count():
            rows = self.rows(epoch, (self._num_skipped - number) * rows_per_step)
            while step := list(islice(rows, rows_per_step)):
                # None stands for rows of skipped steps alone.
                yield [] if number < self._num_skipped else cast("list[StreamedRow]", step)
                number += 1

    def rows(self, epoch: int, num_skipped: int = 0) -> Iterator[StreamedRow | None]:
        """Yield the rows of an epoch, and None for those of windows that lie within the first `num_skipped` rows."""
        conversations, num_unread, totals = self.read(), 0, Counter()
        for number in count():
            known = self.counts[number]
            if self.counts.is_end(number):
                break
            if known is not None and totals["rows"] + known <= num_skipped:
                num_unread += self.window  # read when a later window is due: there may be none in this epoch
                totals["rows"] += known
                yield from repeat(None, known)
                continue
            deque(islice(conversations, num_unread), maxlen=0)
            num_unread = 0
            corpus, num_read = self._next_window(conversations)
            if not num_read:
                self.counts.found_end(number)
                break
            rows = self.pack(corpus.samples, _window_seed(self.seed, number))
            rows.sampling = self.sampling
            self.counts.found(number, len(rows))
            totals.update(rows=len(rows), conversations=num_read, too_long=len(corpus.too_long))
            totals.update(unanswered=len(corpus.unanswered))
            if epoch == 0:
                self._say_what_is_left_out(corpus)
            for row in rows.rows(epoch):
                yield StreamedRow(rows[row], rows.num_tokens(row))
        self._end_epoch(epoch, totals)

    def _say_what_is_left_out(self, corpus: Corpus) -> None:
        if self._num_notices < MAX_NOTICES and (notices := corpus.notices(self.max_length)):
            self._num_notices += 1
            for notice in notices:
                logger.info(f"left out: {notice}")

    def _end_epoch(self, epoch: int, totals: Counter) -> None:
        if not totals["rows"]:
            names = ", ".join(name for name, _ in self.files)
            raise UserError(
                f"{names}: no conversation with an answer has at most {self.max_length} tokens (max_length); nothing "
                "to train on"
            )
        if epoch == 0 and not self._num_skipped:
            logger.info(
                f"an epoch: {many(totals['conversations'], 'conversation')}, {many(totals['rows'], 'row')}; "
                f"{totals['too_long']} longer than max_length {self.max_length} left out"
                + (f", and {totals['unanswered']} without an answer" if totals["unanswered"] else "")
            )

    def _next_window(self, conversations: Iterator[Conversation]) -> tuple[Corpus, int]:
        corpus, num_read = Corpus(), 0
        for name, sample in self.encode(islice(conversations, self.window)):
            num_read += 1
            if sample is None or not sample.trained:
                (corpus.too_long if sample is None else corpus.unanswered).append(name)
            else:
                corpus.samples.append(sample)
        return corpus, num_read

    def kinds(self) -> set[str]:
        """Return both: nobody has seen yet what comes."""
        return {"image", "video"}

    def media(self) -> set[Media]:
        """Return none: nobody has seen them yet."""
        return set()

    def num_samples(self) -> None:
        """Return None: they are counted by reading all of them."""

    def num_media_files(self) -> int:
        """Return the number of conversations in a window: nobody has counted the files."""
        return self.window

    def fingerprint(self, imprint_of: Callable[[Media], tuple | None]) -> str:
        """Return that of the data files: their media have not been seen yet."""
        return fingerprint_files(self.files, self.read_as)

    def without(self, row: StreamedRow, left_out: Set[str]) -> StreamedRow:
        kept = [pair for pair in row if left_out.isdisjoint(map(media_key, pair[1][0].media))]
        return StreamedRow(kept, row.num_tokens)

    def __getitem__(self, index: StreamedRow | None) -> list[tuple[Group, list[Sample]]] | None:
        return index

    def __getstate__(self) -> dict:
        """Send a data loader's workers nothing: `__getitem__` needs nothing."""
        return {}


def _window_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0]) if number else seed


class StreamBatchSampler(Sampler[list[Any]]):
    """The micro-batches of one rank, dealt like those of `RankBatchSampler`, without an end.

    Every step has equally many micro-batches: one with fewer rows, the last of an epoch, begins with [NO_ROW].
    """

    def __init__(
        self,
        stream: RowStream,
        batch_size: int,
        rows_per_step: int,
        num_ranks: int = 1,
        rank: int = 0,
        left_out: LeftOut = nothing_left_out,
    ):
        self.stream, self.batch_size, self.rows_per_step = stream, batch_size, rows_per_step
        self.num_ranks, self.rank, self.left_out = num_ranks, rank, left_out

    def __iter__(self) -> Iterator[list[Any]]:
        num_batches = num_micro_batches(self.rows_per_step, self.batch_size, self.num_ranks)
        for number, step in enumerate(self.stream.steps(self.rows_per_step), start=1):
            dealt = deal([row.num_tokens for row in step], self.batch_size, self.num_ranks)
            for _ in range(num_batches - len(dealt)):
                yield [NO_ROW]
            for batches in dealt:
                own = [step[index] for index in batches[self.rank]]
                left_out = self.left_out(number)
                yield [self.stream.without(row, left_out) for row in own] if left_out else own


class StepCollator:
    """A collator that turns [NO_ROW], which all ranks get at once, into an empty batch with "is_missing", which nobody
    computes, and leaves everything else to `collate`."""

    def __init__(self, collate: Callable[[Sequence[Any]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, batch: Sequence[Any]) -> dict[str, Any]:
        return {**self.collate([]), "is_missing": True} if list(batch) == [NO_ROW] else self.collate(batch)
