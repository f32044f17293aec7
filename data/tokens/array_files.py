"""Columns on disk, an Arrow file for each set of them, found again by a key that names everything they depend on.

Arrow keeps each column as its plain bytes, so that a file is read by mapping it: processes share its pages, and only
the one that looks it up needs pyarrow. Any number of processes may ask at once: one makes the columns, the others wait
for it and map the same file. A file is complete or absent; a damaged one counts as absent.
"""

import fcntl
import hashlib
import json
import logging
import mmap
import os
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from data.errors import visible
from data.files import UNFINISHED, cache_folder, remove_if_killed, whole_file
from data.tokens.columns import Column, TypeCode

logger = logging.getLogger(__name__)

Columns = dict[str, Column]
TYPES: dict[TypeCode, pa.DataType] = {"B": pa.uint8(), "H": pa.uint16(), "i": pa.int32(), "q": pa.int64()}
TYPECODES = {kind: typecode for typecode, kind in TYPES.items()}
SUFFIX, LOCK = ".arrow", ".lock"
MAX_BYTES = 20 * 2**30  # of all files: some sixty settings of a million conversations
SECONDS_UNTOLD = 2.0  # of waiting for another process
PAUSE = 0.05  # seconds between two looks at a lock


def default_folder() -> str:
    """Return where tokens and rows are kept."""
    return cache_folder("tokens")


@dataclass(frozen=True)
class ArrayFiles:
    """The files of a folder; it need not exist, and where it cannot be written nothing is kept."""

    folder: str

    def get(
        self,
        key: Mapping,
        make: Callable[[], Columns],
        is_sound: Callable[[Columns], bool] = lambda columns: True,
        is_worth: Callable[[Columns], bool] = lambda columns: True,
    ) -> Columns:
        """Return the columns that are kept under a key, or what `make` makes, which is kept where that `is_worth` it.

        is_sound: whether what is kept still holds; otherwise it is made anew.
        """
        path, text = self.path(key), _canonical(key)
        if (found := _read(path, text)) is not None and is_sound(found):
            return found
        with _lock(path.with_suffix(LOCK)) as can_write:
            if (found := _read(path, text)) is not None and is_sound(found):
                return found
            columns = make()
            if not can_write or not is_worth(columns):
                return columns
            try:
                _write(path, text, columns)
                self._make_room()
            except OSError as problem:
                _tell_unwritable(self.folder, problem.strerror or str(problem))
                return columns
            return _read(path, text) or columns

    def path(self, key: Mapping) -> Path:
        name = hashlib.sha256(_canonical(key).encode()).hexdigest()
        return Path(self.folder, name + SUFFIX)

    def _make_room(self) -> None:
        """Remove what killed writers left, and the longest unused files where all together are too large."""
        folder = Path(self.folder)
        for left in folder.glob(f".*{UNFINISHED}"):
            remove_if_killed(left)
        entries = []
        for path in folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        left = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries)[:-1]:
            if left <= MAX_BYTES:
                return
            path.unlink(missing_ok=True)
            left -= size


@dataclass(frozen=True)
class Beside:
    """The files of what is made of kept tokens. made: which tokens; None: they are not kept, and neither is this."""

    made: str | None = None
    settings: tuple[int | str | None, ...] = ()

    def get(self, name: str, make: Callable[[], Columns], *more: int) -> Columns:
        """Return the columns of this name, settings and numbers, or what `make` makes."""
        if self.made is None:
            return make()
        return ArrayFiles(default_folder()).get({"of": self.made, name: [*self.settings, *more]}, make)


def _canonical(key: Mapping) -> str:
    return json.dumps(key, sort_keys=True, separators=(",", ":"))


@cache
def _tell_unwritable(folder: str, reason: str) -> None:
    """Say it once."""
    logger.info(visible(f"cannot keep tokens in {folder}: {reason}; they are made at each start"))


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold a lock while something is made; give False where nothing can be written, which is told.

    The kernel ends the lock of a process that is killed. The file goes with the lock: who waited for it has another
    look first.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as problem:
        _tell_unwritable(str(path.parent), problem.strerror or str(problem))
        yield False
        return
    try:
        _wait_for_lock(descriptor)
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _wait_for_lock(descriptor: int) -> None:
    """Wait until no other process has the lock. On a file system without locks each works for itself."""
    began, is_told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not is_told and time.monotonic() - began > SECONDS_UNTOLD:
                is_told = True
                logger.info("waiting for another process, which prepares the same data")
            time.sleep(PAUSE)
        except OSError:
            return


def to_batch(columns: Columns, about: Mapping[str, str]) -> pa.RecordBatch:
    """Return columns as an Arrow table with one record, in which each is the list of all its numbers.

    about: noted beside them.
    """
    lists = []
    for column in columns.values():
        values = pa.Array.from_buffers(TYPES[column.typecode], len(column), [None, pa.py_buffer(column.view())])
        lists.append(pa.LargeListArray.from_arrays(pa.array([0, len(column)], pa.int64()), values))
    schema = pa.schema([pa.field(name, each.type) for name, each in zip(columns, lists, strict=True)], dict(about))
    return pa.RecordBatch.from_arrays(lists, schema=schema)


def numbers_of(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """Return the numbers of each column that `to_batch` made a list."""
    return {name: column.values for name, column in zip(batch.schema.names, batch.columns, strict=True)}


def _write(path: Path, key: str, columns: Columns) -> None:
    about = {"key": key, "crc32": str(_check_sum(column.view() for column in columns.values()))}
    batch = to_batch(columns, about)
    with whole_file(path) as file, pa.ipc.new_file(pa.PythonFile(file, "w"), batch.schema) as writer:
        writer.write_batch(batch)


def _check_sum(parts: Iterable[memoryview]) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total


def _read(path: Path, key: str) -> Columns | None:
    """Return the columns of a file, mapped; None, and no file, for one that is damaged or another key's."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a pipe would wait for ever
            return None
        file = open(path, "rb")
    except OSError:
        return None
    try:
        columns = _columns(file, key)
    except (OSError, ValueError, pa.ArrowException):
        columns = None
    with suppress(OSError):  # another process may be faster, or the file somebody else's
        if columns is None:
            path.unlink()
        else:
            os.utime(path)  # the time of last use
    return columns


def _columns(file: BinaryIO, key: str) -> Columns | None:
    whole = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    reader = pa.ipc.open_file(whole)
    about = {name.decode(): value.decode() for name, value in (reader.schema.metadata or {}).items()}
    if about.get("key") != key or reader.num_record_batches != 1:
        return None
    columns, parts = {}, []
    for name, numbers in numbers_of(reader.get_batch(0)).items():
        content = numbers.buffers()[1]
        start = content.address - whole.address if content and len(numbers) else 0
        size = len(numbers) * numbers.type.bit_width // 8
        if not 0 <= start <= whole.size - size:
            return None
        columns[name] = Column.within(file, TYPECODES[numbers.type], start, len(numbers))
        parts.append(memoryview(whole)[start : start + size])
    return columns if about.get("crc32") == str(_check_sum(parts)) else None
