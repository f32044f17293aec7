"""What an entry of data.train names -> data files, and their rows."""

import glob
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from data import tables
from data.errors import UserError
from data.hub_sets import files_in, is_hub_id, snapshot
from data.locate import default_cache
from data.records import Row, read_json
from data.reference import Downloads
from data.shards import SUFFIXES, read_shard


@dataclass(frozen=True)
class Source(os.PathLike):
    """`path`: a file, or several as {000..009}, {a,b} and * name them, a data set's folder, or its name on the hub, of
    which `split` or the pattern `files` chooses files. downloads: for media that rows name by address or hold in
    themselves."""

    path: str
    revision: str | None = None
    split: str | None = None
    files: str | None = None
    downloads: Downloads = field(default_factory=lambda: Downloads(default_cache()))

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path


def data_files(source: Source) -> list[str]:
    """The files of a source; see `find_files`."""
    return find_files(source)[0]


def find_files(source: Source) -> tuple[list[str], str | None]:
    """The files, and the folder that holds what was downloaded. UserError where a pattern fits no file; a name that is
    none is taken as it is."""
    path, choice = source.path, (source.split, source.files)
    if is_hub_id(path):
        folder = snapshot(path, source.revision, source.files)
        return files_in(folder, path, *choice), folder
    if source.revision is not None:
        raise UserError(f"{path}: is no data set on the hub, so it has no revision {source.revision!r}; remove it")
    if os.path.isdir(path):
        return files_in(path, path, *choice), None
    if choice != (None, None):
        raise UserError(f"{path}: is no folder and no data set on the hub; remove split and files, or correct path")
    return _local_files(path), None


def _local_files(path: str) -> list[str]:
    if os.path.exists(path) or not re.search(r"[*?{\[]", path):
        return [path]
    found = []
    for pattern in expand_braces(path):
        matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]
        if not matches:
            raise UserError(f"{path}: no file fits {pattern!r}; correct the pattern")
        found += matches
    return list(dict.fromkeys(found))


def expand_braces(pattern: str) -> list[str]:
    """a{08..10}{x,y} -> a08x a08y a09x ..., as shells do it."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    between = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if between:
        low, high = between.groups()
        choices = [f"{number:0{len(low)}}" for number in range(int(low), int(high) + 1)]
    else:
        choices = found[1].split(",")
    return [text for choice in choices for text in expand_braces(pattern.replace(found[0], choice, 1))]


def read_rows(path: str, on_problem: Callable[[UserError], None]) -> Iterator[Row]:
    """The rows of one data file."""
    if path.endswith(SUFFIXES):
        return read_shard(path, on_problem)
    if path.endswith(tables.SUFFIXES):
        return tables.read_table(path, on_problem)
    return read_json(path, on_problem)
