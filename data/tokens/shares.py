"""Conversations that several processes read, render and tokenise, each a share of them, joined in their order.

Each process reads all records, which is the least of the work, and goes on with those of its share. The processes are
new ones, no forks, which could inherit the locks of other libraries' threads; they need no torch.
"""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, cycle, groupby
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data.command import num_cores, num_processes_here
from data.isolation.child_process import ChildProcess, wait_for_any
from data.sources.conversation import Conversation, read_conversations
from data.sources.source import Source, holds_media, is_address
from data.tokens.array_files import TYPECODES, numbers_of, to_batch
from data.tokens.columns import Column
from data.tokens.encoded import Encoded
from data.tokens.encoding import encode_batches
from data.tokens.sample import Sample
from data.tokens.samples import Samples
from data.video_llava import VisualTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PART = 2048  # conversations of a part: some tenths of a second of work
MAX_PROCESSES = 8  # each reads everything, so many more gain little
OBJECTS_BETWEEN_LOOKS = 50_000  # for cycles; those of some hundred conversations
SECONDS, MEMORY = 600.0, 2**37  # of a part: bounds for what hangs, far beyond what is sound


@dataclass(frozen=True)
class Encoding:
    """Conversations of some sources, and the way in which they are tokenised (see `encode_batches`).

    found: what `find_files` gives for each source: a data set's name on the hub is looked up once.
    """

    sources: Sequence[Source]
    found: Sequence[tuple[Sequence[str], str | None]]
    tokenizer: PreTrainedTokenizerBase
    visual_tokens: VisualTokens
    max_length: int
    system_prompt: str | None

    def conversations(self, is_chosen: Callable[[int], bool] = lambda number: True) -> Iterator[Conversation]:
        """Read the conversations of those records whose number, from 0 over all sources, is chosen."""
        numbers = count()
        return chain.from_iterable(
            read_conversations(source, is_chosen=lambda: is_chosen(next(numbers)), found=found)
            for source, found in zip(self.sources, self.found, strict=True)
        )

    def num_letters(self) -> int:
        """Return about how many letters the records in files of JSON have; the files of a source may be missing."""
        files = [path for paths, _ in self.found for path in paths if not (is_address(path) or holds_media(path))]
        return sum(os.path.getsize(path) for path in files if os.path.exists(path))

    def encode(self, conversations: Iterable[Conversation]) -> Iterator[list[tuple[str, Sample | None]]]:
        """Yield the name and the sample of each, some of them at a time."""
        return encode_batches(conversations, self.tokenizer, self.visual_tokens, self.max_length, self.system_prompt)

    def new_samples(self) -> Samples:
        return Samples(num_ids=len(self.tokenizer))


class Share:
    """The work of one of `num_shares` processes: every `num_shares`th part of the records, from the `number`th on.

    path: a pickled `Encoding`, which is read in the process that does the work: a vocabulary fills no pipe.
    """

    def __init__(self, path: str, number: int, num_shares: int):
        self.path, self.number, self.num_shares = path, number, num_shares
        self._encoding: Encoding | None = None
        self._parts: Iterator[Iterator[Conversation]] | None = None

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are as many as the cores
        with open(self.path, "rb") as file:
            self._encoding = pickle.load(file)
        # Records make many objects and no cycles: to look for these is a tenth of the work.
        gc.freeze()
        gc.set_threshold(OBJECTS_BETWEEN_LOOKS)

    def __call__(self, first: int) -> np.ndarray | None:
        """Return the next part, as `to_bytes` writes it; None behind the last one. first: the record of part 0."""
        assert (encoding := self._encoding) is not None, "it is another process that works"
        if self._parts is None:
            self._parts = self._read(encoding, first)
        if (part := next(self._parts, None)) is None:
            return None
        encoded = Encoded(encoding.new_samples())
        for several in encoding.encode(part):
            encoded.extend(several, encoding.visual_tokens)
        return to_bytes(encoded)

    def _read(self, encoding: Encoding, first: int) -> Iterator[Iterator[Conversation]]:
        """Yield the conversations of each part, to be taken before the next."""
        reached = 0  # the part of the record that was read last

        def is_mine(number: int) -> bool:
            nonlocal reached
            reached = (number - first) // PART
            return number >= first and reached % self.num_shares == self.number

        for _, part in groupby(encoding.conversations(is_mine), key=lambda conversation: reached):
            yield part


def to_bytes(encoded: Encoded) -> np.ndarray:
    """Write a part as an Arrow stream."""
    batch, sink = to_batch(encoded.columns(), {}), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return np.frombuffer(sink.getvalue(), np.uint8)


def from_bytes(content: np.ndarray) -> Encoded:
    """Read what `to_bytes` wrote."""
    columns = {}
    for name, numbers in numbers_of(pa.ipc.open_stream(pa.py_buffer(content)).read_next_batch()).items():
        columns[name] = Column(TYPECODES[numbers.type])
        columns[name].join(numbers.to_numpy())
    return Encoded.of(columns)


class Processes:
    """`number` processes that begin beside this one, and take over when all of them are ready."""

    def __init__(self, encoding: Encoding, number: int):
        self.encoding, self.number = encoding, number
        self._processes: list[ChildProcess] = []
        self._file: IO[bytes] | None = None

    def _begin(self) -> None:
        """Start them, unless there is nothing to divide: a record behind an address would be fetched by each."""
        is_remote = any(is_address(path) for paths, _ in self.encoding.found for path in paths)
        self._file = NamedTemporaryFile(prefix="reeltune-")
        pickle.dump(self.encoding, self._file)
        self._file.flush()
        for share in range(0 if is_remote or self.number < 2 else self.number):
            self._processes.append(ChildProcess(Share(self._file.name, share, self.number), SECONDS, MEMORY))

    def are_ready(self) -> bool:
        """Tell whether all can work; the first time they are started."""
        try:
            if self._file is None:
                self._begin()
            for process in self._processes:
                if process.is_busy:
                    process.answer()
        except (OSError, RuntimeError):  # no room, no memory, or one was killed: this process goes on alone
            self.end()
        return bool(self._processes) and all(process.is_ready for process in self._processes)

    def read(self, first: int, take: Callable[[Encoded], None]) -> bool:
        """Hand all parts from the record `first` on to `take`, in their order; return False where one is missing.

        Then something is wrong with one of its records, or with a process: reading that part here shows what.
        """
        for process in self._processes:
            process.give(first)
        for process in cycle(self._processes):
            while (answer := process.answer()) is None:
                wait_for_any([process])
            if answer.failure is not None:
                return False
            if answer.result is None:
                return True
            process.give(first)
            take(from_bytes(answer.result))
        return False

    def end(self) -> None:
        for process in self._processes:
            process.end()
        self._processes = []
        if self._file is not None:
            self._file.close()


def num_processes(is_for_all: bool) -> int:
    """Return how many processes may work at once. is_for_all: the other ranks of this machine wait meanwhile."""
    return min(MAX_PROCESSES, num_cores() // (1 if is_for_all else num_processes_here()))
