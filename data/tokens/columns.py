"""Flat arrays that grow in files and are mapped: a data set of millions weighs little, and processes share its pages.

Python objects would be copied into every worker. pyarrow's IPC files, mapped, do much of this, and were measured with
800,000 conversations of 30 ids: they are filled 1.7 times faster and read at random as fast, but a process that reads
them holds 45 MiB of its own where it holds 1 MiB of these columns, and the library costs each worker another 40 MiB.
Their tables cannot grow, so what gathers batches, the file that processes share and the way it reaches them would stay
our code; so would the table of `data.digests`, as pyarrow has none that grows. `datasets` is made of such files.
"""

import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice
from multiprocessing.context import get_spawning_popen
from typing import BinaryIO, Literal, Self, cast, overload

import numpy as np

from data.errors import NO_FOLDER, UserError, in_words, way_out

TypeCode = Literal["B", "H", "i", "q"]  # of `array`: unsigned in 1 and 2 bytes, signed in 4 and 8
IN_MEMORY = 2**16  # bytes; what is shorter needs no file
OPEN_FILE = "/proc/{}/fd/{}"  # of a process and a descriptor; it has no other name
FORGET_EVERY = 2**12  # looks; the pages that they touched go back to the page cache, which keeps them


class Column:
    """Numbers of one type that are appended, then read.

    The file has no name and is gone with the last process that uses it. Raises UserError where it cannot be written.
    """

    def __init__(self, typecode: TypeCode, numbers: Iterable[int] = ()):
        self._typecode: TypeCode = typecode
        self._rest: array[int] = array(typecode)  # what is not in the file yet
        self._most = IN_MEMORY // self._rest.itemsize  # numbers
        self._num_written = self._start = 0  # numbers in the file, and the byte of it at which they begin
        self._file: BinaryIO | None = None
        self._map: mmap.mmap | None = None
        self._view: memoryview | None = None
        self._num_looks = 0
        self.extend(numbers)

    @classmethod
    def within(cls, file: BinaryIO, typecode: TypeCode, start: int, length: int) -> Self:
        """Return the numbers that a file has from the byte `start` on. Nothing is appended to them."""
        column = cls(typecode)
        column._file, column._start, column._num_written = file, start, length
        return column

    @property
    def typecode(self) -> TypeCode:
        return self._typecode

    def __len__(self) -> int:
        return self._num_written + len(self._rest)

    def append(self, number: int) -> None:
        if self._view is not None:
            self._let_grow()
        self._rest.append(number)
        if len(self._rest) >= self._most:
            self._spill()

    def extend(self, numbers: Iterable[int]) -> None:
        if self._view is not None:
            self._let_grow()
        self._rest.extend(array(self._typecode, numbers))
        if len(self._rest) >= self._most:
            self._spill()

    def join(self, numbers: "memoryview | np.ndarray") -> None:
        """Append numbers that lie in memory as those of this column do."""
        if self._view is not None:
            self._let_grow()
        if len(numbers):
            assert numbers.itemsize == self._rest.itemsize
            self._rest.frombytes(np.ascontiguousarray(numbers).data.cast("B"))
        if len(self._rest) >= self._most:
            self._spill()

    def _let_grow(self) -> None:
        self._rest = self._rest[:]  # an array that is viewed cannot grow
        self._view = self._map = None

    def view(self) -> memoryview:
        """Return all numbers so far. What is appended later is in a new view and leaves this one as it is."""
        view = self._view
        if view is None:
            view = self._view = self._mapped(self._file) if self._file else memoryview(self._rest)
        self._num_looks += 1
        if self._num_looks % FORGET_EVERY == 0:
            self.forget()
        return view

    def forget(self) -> None:
        """Give the pages that were looked at back to the page cache."""
        if self._map and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _spill(self) -> None:
        try:
            file = self._file or tempfile.TemporaryFile()
            file.write(self._rest)
            file.flush()
            self._file = file
        except OSError as problem:
            raise UserError(
                f"cannot keep the conversations in a temporary file: {in_words(problem)}; "
                f"{way_out(problem, NO_FOLDER)}, or set TMPDIR, which is {tempfile.tempdir}, to another folder"
            ) from problem
        self._num_written += len(self._rest)
        self._rest = array(self._typecode)

    def _mapped(self, file: BinaryIO) -> memoryview:
        if self._rest:
            self._spill()
        if not self._num_written:
            return memoryview(self._rest)
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        end = self._start + self._num_written * self._rest.itemsize
        return memoryview(self._map)[self._start : end].cast(self._typecode)

    def __reduce__(self):
        """Let a process that is being started map the same file, where the system shows the files that other processes
        have open (Linux). All others get a copy."""
        numbers = self.view()
        if self._file and get_spawning_popen():
            path = OPEN_FILE.format(os.getpid(), self._file.fileno())
            if os.path.exists(path):
                return _from_file, (self._typecode, path, self._start, len(self))
        return Column, (self._typecode, array(self._typecode, numbers))


def _from_file(typecode: TypeCode, path: str, start: int, length: int) -> Column:
    return Column.within(open(path, "rb"), typecode, start, length)


class Ragged(Sequence[memoryview]):
    """Lists of unequal lengths, one behind the other in a column."""

    def __init__(self, typecode: TypeCode):
        self.values, self.ends = Column(typecode), Column("q", [0])

    def append(self, numbers: Iterable[int]) -> None:
        self.values.extend(numbers)
        self.ends.append(len(self.values))

    def extend(self, lists: Sequence[Sequence[int]]) -> None:
        """Append several lists, much faster than one by one."""
        if not lists:
            return
        start = len(self.values)
        self.ends.extend(islice(accumulate(map(len, lists), initial=start), 1, None))
        is_bytes = isinstance(lists[0], bytes)
        self.values.extend(b"".join(cast("Sequence[bytes]", lists)) if is_bytes else chain.from_iterable(lists))

    def join(self, values: "memoryview | np.ndarray", ends: "memoryview | np.ndarray") -> None:
        """Append the lists of another one: all its values, and its `ends`."""
        self.ends.join(np.asarray(ends)[1:] + len(self.values))
        self.values.join(values)

    def columns(self, name: str) -> dict[str, Column]:
        """Return its columns by names that begin with `name`."""
        return {name: self.values, f"{name}_ends": self.ends}

    @classmethod
    def of(cls, columns: Mapping[str, Column], name: str) -> Self:
        """Return what `columns(name)` gave."""
        lists = cls(columns[name].typecode)
        lists.values, lists.ends = columns[name], columns[f"{name}_ends"]
        return lists

    def finish(self) -> None:
        """Write everything into the files that processes share."""
        self.values.view()
        self.ends.view()

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __iter__(self) -> Iterator[memoryview]:
        """Yield each list, ten times as fast as by its number."""
        for first in range(0, len(self), FORGET_EVERY):
            values, ends = self.values.view(), self.ends.view()[first : first + FORGET_EVERY + 1]
            self.values.forget()
            start = ends[0]
            for end in ends[1:]:
                yield values[start:end]
                start = end

    @overload
    def __getitem__(self, index: int) -> memoryview: ...

    @overload
    def __getitem__(self, index: slice) -> list[memoryview]: ...

    def __getitem__(self, index: int | slice) -> memoryview | list[memoryview]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        place, ends = range(len(self))[index], self.ends.view()
        return self.values.view()[ends[place] : ends[place + 1]]
