"""Data files, wherever they lie and however many one name stands for, and their records."""

import glob
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from data.errors import UserError, in_words
from data.media.http_file import remote_size
from data.media.locate import FILE_SCHEME, SCHEMES, default_cache, path_of, without_secrets
from data.media.reference import Address, Downloads
from data.sources import tables
from data.sources.forms import NO_COLUMNS, Reading
from data.sources.hub_datasets import addresses_of, files_in, is_hub_id, snapshot
from data.sources.json_records import Record, read_json
from data.sources.tar_shards import SUFFIXES, read_shard

NUM_CONNECTIONS = 16  # at once: shards behind addresses may be thousands, and each answer takes a tenth of a second


@dataclass(frozen=True)
class Source:
    """An entry of data.train or data.eval: the files of conversations, and the folders of their media.

    path: a file, or several as {000..009}, {a,b} and * name them, addresses of tar shards, a data set's folder, or its
        name on the hub, of which `split` or the pattern `files` chooses files.
    media_root: the folder, or folders, that media paths are relative to and may not leave unless `outside_media_root`;
        of several the first that has the file. None is the data file's own folder, without that bound. In a data set
        from the hub it is one of its folders, and nothing may leave the set.
    downloads: for media that records name by address or hold in themselves.
    in_place: tar shards on the hub, which `files` names, are not downloaded.
    columns, tags, strict_turns: see `Reading`.
    """

    path: str | os.PathLike[str]
    revision: str | None = None
    split: str | None = None
    files: str | None = None
    media_root: str | os.PathLike[str] | Sequence[str] | None = None
    outside_media_root: bool = False
    downloads: Downloads = field(default_factory=lambda: Downloads(default_cache()))
    in_place: bool = False
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    strict_turns: bool = False

    def __post_init__(self):
        object.__setattr__(self, "path", plain_path(self.path))

    @property
    def is_renamed(self) -> bool:
        return bool(self.columns or self.tags)

    @property
    def reading(self) -> Reading:
        """Return the way in which its records are read."""
        return Reading(self.columns, self.tags, self.strict_turns)

    @property
    def media_roots(self) -> tuple[str, ...]:
        """Return the folders of `media_root`, none where it is None."""
        root = self.media_root
        if root is None:
            return ()
        return tuple(map(plain_path, (root,) if isinstance(root, str | os.PathLike) else root))

    def __str__(self) -> str:
        """Return the path as messages show it."""
        path = os.fspath(self.path)
        return without_secrets(path) if is_address(path) else path


def plain_path(path: str | os.PathLike[str]) -> str:
    """Return a path as text, also of a file:// address. Raises UserError for one that names no file of this machine."""
    path = os.fspath(path)
    return path_of(path, "path") if path.lower().startswith(FILE_SCHEME) else path


def find_files(source: Source) -> tuple[list[str], str | None]:
    """Return the data files, and the folder that holds what was downloaded.

    Raises UserError where a pattern fits no file; a name that is no pattern is taken as it is.
    """
    path, choice = str(source.path), (source.split, source.files)
    if is_address(path):
        if source.revision is not None or choice != (None, None):
            raise UserError(f"{source}: an address has no revision, split and files; remove them")
        return expand_braces(path), None
    if is_hub_id(path) and source.in_place and str(source.files).endswith(".tar"):
        return addresses_of(path, source.revision, source.files), None
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


def file_sizes(source: Source) -> list[tuple[str, int]]:
    """Return the data files as messages show them, and their sizes in bytes. Raises UserError for a missing one."""

    def measure(path: str) -> tuple[str, int]:
        if is_address(path):
            return without_secrets(path), remote_size(Address(path, source.downloads), without_secrets(path))
        return path, _local_size(path)

    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        return list(pool.map(measure, find_files(source)[0]))


def check_local_files(source: Source) -> None:
    """Raise UserError for a data file of this machine that is missing; nothing is asked of others."""
    if not (is_address(str(source.path)) or is_hub_id(str(source.path))):
        for path in find_files(source)[0]:
            _local_size(path)


def local_files(sources: Iterable[Source]) -> Iterator[str]:
    """Yield the data files of this machine that sources name; none of a pattern that fits no file."""
    for source in sources:
        if not (is_address(str(source.path)) or is_hub_id(str(source.path))):
            with suppress(UserError):
                yield from find_files(source)[0]


def _local_size(path: str) -> int:
    """Return the size of a file in bytes. Raises UserError for what is none: a pipe may wait, a device have no end."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: cannot read the data file: {in_words(problem)}") from problem
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is a pipe, a device or a folder; write the records into a file")
    return status.st_size


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
    """Expand a{08..10}{x,y} into a08x a08y a09x ..., as shells do."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    between = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if between:
        first, last = map(int, ends := between.groups())
        width = max(map(len, ends)) if any(re.match("0.", end) for end in ends) else 0
        step = 1 if first <= last else -1
        choices = [f"{number:0{width}}" for number in range(first, last + step, step)]
    else:
        choices = found[1].split(",")
    return [text for choice in choices for text in expand_braces(pattern.replace(found[0], choice, 1))]


def read_records(
    path: str,
    downloads: Downloads,
    on_problem: Callable[[UserError], None],
    columns: Mapping[str, str] = NO_COLUMNS,
    is_chosen: Callable[[], bool] = lambda: True,
) -> Iterator[Record]:
    """Read the records of one data file, one at a time.

    columns: see `Reading`; is_chosen: is asked of each record in turn, and the others are left out.
    """
    if is_address(path):
        if not urlsplit(path).path.endswith(".tar"):
            name = without_secrets(path)
            return iter(on_problem(UserError(f"{name}: of addresses only tar shards are read; download it")) or ())
        return filter(lambda record: is_chosen(), read_shard(path, on_problem, downloads))
    try:
        _local_size(path)
    except UserError as problem:
        return iter(on_problem(problem) or ())
    if path.endswith(SUFFIXES):
        records = read_shard(path, on_problem)
    elif path.endswith(tables.SUFFIXES):
        records = tables.read_table(path, on_problem, columns)
    else:
        return read_json(path, on_problem, is_chosen)
    return filter(lambda record: is_chosen(), records)


def holds_media(path: str) -> bool:
    """Tell tables and tar shards, which may hold media and be large for that, from files of JSON."""
    return path.endswith((*tables.SUFFIXES, *SUFFIXES))


def is_address(path: str) -> bool:
    """Tell an http or https address from a path."""
    return path.startswith(SCHEMES)
