"""Flat arrays that grow in files and are mapped: a data set of millions weighs little, and processes share its pages.

Python objects would be copied into every worker.
"""

import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from multiprocessing.context import get_spawning_popen

from data.errors import UserError

IN_MEMORY = 2**16  # bytes; what is shorter needs no file
OPEN_FILE = "/proc/{}/fd/{}"  # of a process and a descriptor; it has no other name
FORGET_EVERY = 2**12  # looks; the pages that they touched go back to the page cache, which keeps them


class Column:
    """Numbers of one type (a type code of `array`), appended, then read.

    The file has no name and is gone with the last process that uses it. UserError where it cannot be written.
    """

    def __init__(self, typecode: str, numbers: Iterable[int] = ()):
        self._rest, self._num_written = array(typecode), 0
        self._file = self._map = self._view = None
        self._num_looks = 0
        self.extend(numbers)

    def __len__(self) -> int:
        return self._num_written + len(self._rest)

    def append(self, number: int) -> None:
        self.extend((number,))

    def extend(self, numbers: Iterable[int]) -> None:
        if self._view is not None:
            self._rest = self._rest[:]  # an array that is viewed cannot grow
            self._view = self._map = None
        self._rest.extend(array(self._rest.typecode, numbers))
        if len(self._rest) * self._rest.itemsize >= IN_MEMORY:
            self._spill()

    def view(self) -> memoryview:
        """All numbers; valid while the column grows, which it does without them."""
        if self._view is None:
            self._view = self._mapped() if self._file else memoryview(self._rest)
        self._num_looks += 1
        if self._map and self._num_looks % FORGET_EVERY == 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
        return self._view

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()
            self._rest.tofile(self._file)
            self._file.flush()
        except OSError as problem:
            raise UserError(
                f"cannot keep the conversations in a temporary file: {problem.strerror}; make room in "
                f"{tempfile.tempdir}, or set TMPDIR to another folder"
            ) from problem
        self._num_written += len(self._rest)
        self._rest = array(self._rest.typecode)

    def _mapped(self) -> memoryview:
        self._spill()
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._map).cast(self._rest.typecode)

    def __reduce__(self):
        """A process that is being started maps the same file, where the system shows those of other processes (Linux).
        All others get a copy."""
        typecode, numbers = self._rest.typecode, self.view()
        if self._file and get_spawning_popen():
            path = OPEN_FILE.format(os.getpid(), self._file.fileno())
            if os.path.exists(path):
                return _from_file, (typecode, path, len(self))
        return Column, (typecode, array(typecode, numbers))


def _from_file(typecode: str, path: str, length: int) -> Column:
    column = Column(typecode)
    column._file, column._num_written = open(path, "rb"), length
    return column


class Ragged(Sequence[memoryview]):
    """Rows of unequal lengths, one behind the other in a column."""

    def __init__(self, typecode: str):
        self.values, self.ends = Column(typecode), Column("q", [0])

    def append(self, row: Iterable[int]) -> None:
        self.values.extend(row)
        self.ends.append(len(self.values))

    def finish(self) -> None:
        """Everything is in the files."""
        self.values.view()
        self.ends.view()

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> memoryview:
        index, ends = range(len(self))[index], self.ends.view()
        return self.values.view()[ends[index] : ends[index + 1]]
