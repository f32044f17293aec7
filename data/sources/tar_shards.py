"""Tar shards as WebDataset writes them: members that share a name up to its first dot are one sample.

`key.json` holds a record, a list of records or the turns alone; its media are the other members of the sample, or
those of the shard that the record names. Only headers and JSON are read: media are byte ranges of the shard.
"""

import io
import math
import os
import posixpath
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from data.errors import UserError, one_line
from data.media.http_file import open_remote
from data.media.locate import without_secrets
from data.media.reference import Address, Downloads, Part, Segment
from data.sources.guard import about_record, described
from data.sources.json_records import Letters, Record, parsed, read_list

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAX_HEADER = 2**16  # bytes of a long name or of pax headers, which tarfile reads at once
DIGITS = re.compile(rb"\d{128}")  # older versions of tarfile search such runs in the square of their length
MAX_JSON_MIB = 1024  # of a shard, which are kept while it is read
Members = dict[str, tuple[str, Segment | Part]]


def read_shard(
    path: str, on_problem: Callable[[UserError], None], downloads: Downloads | None = None
) -> Iterator[Record]:
    """Read records in the order of the shard. The headers of the whole shard are read first, its JSON with them.

    path: a file, or with downloads an address, whose media are fetched when they are due.
    """
    address = None if downloads is None else Address(path, downloads)
    path = without_secrets(path) if address else path
    try:
        with open_remote(address, path) if address else open(path, "rb") as file:
            members, contents = list_members(file, path, address)
    except tarfile.TarError as error:
        reason = one_line(error)
        return on_problem(UserError(f"{path}: is truncated or not a tar file ({reason}); copy or download it again"))
    except UserError as problem:
        return on_problem(problem)
    except OSError as error:
        return on_problem(UserError(f"{path}: cannot read the data file: {error.strerror}"))
    except Exception as error:  # tarfile has no error of its own for headers that are chained or cut
        return on_problem(UserError(f"{path}: is damaged or not a tar file ({described(error)}); download it again"))
    samples: dict[str, Members] = defaultdict(dict)
    for name, member in members.items():
        key, extension = split_name(name)
        samples[key][extension] = member
    usual = {posixpath.normpath(name): member for name, member in members.items()} | members
    for name, content in contents.items():
        names = Names(samples[split_name(name)[0]], usual, posixpath.dirname(name))
        text = content.decode("utf-8-sig", "surrogateescape")
        for record in _values_of(text, f"{path} {name}", on_problem):
            yield Record(record.content, record.name, names, own=tuple(names.own))


def list_members(file: BinaryIO, path: str, address: Address | None = None) -> tuple[Members, dict[str, bytes]]:
    """List the files of a shard in its order, and read the content of those that hold records.

    path: what the shard is called. Raises UserError, or tarfile's errors, where they cannot be read one by one.
    """
    if file.read(6).startswith(COMPRESSED):
        raise UserError(f"{path}: is compressed, so its members cannot be read one by one; unpack it to a .tar")
    file.seek(0)
    members: Members = {}
    contents: dict[str, bytes] = {}
    left, end = MAX_JSON_MIB * 2**20, -1
    length = math.inf if address else os.fstat(file.fileno()).st_size
    with tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # pyrefly: ignore[no-matching-overload]: it reads no more
        for member in tar:
            tar.members.clear()  # tarfile would keep them, and their headers
            name, at = member.name, (member.offset_data, member.size)
            if not end < member.offset_data <= tar.offset or member.size < 0:  # or it would be read without an end
                raise tarfile.ReadError(f"{name!a} has a size that leads back")
            if member.isreg() and member.offset_data + member.size > length:
                raise tarfile.ReadError(f"{name!a} ends behind the end of the file")
            end = member.offset_data
            if not member.isreg() or member.issparse() or posixpath.basename(name).startswith("._"):
                continue
            members[name] = (posixpath.join(path, name), Part(address, *at) if address else Segment(path, *at))
            if split_name(name)[1].rpartition(".")[2] == "json":
                if (left := left - member.size) < 0:
                    raise UserError(f"{path}: its JSON is more than {MAX_JSON_MIB} MiB; split the shard")
                file.seek(member.offset_data)
                contents[name] = file.read(member.size)
                if len(contents[name]) < member.size:
                    raise tarfile.ReadError(f"it ends within {name!a}")
        file.seek(tar.offset)  # tarfile takes a damaged header for the end, and the end of a file that was cut, too
        if (block := file.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
            problem = "a damaged header" if len(block) == tarfile.BLOCKSIZE else "no end mark"
            raise tarfile.ReadError(f"{problem} at byte {tar.offset}")
    return members, contents


class _Headers:
    """A shard as tarfile reads it: its headers, none of which is large. It would believe any size."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        if DIGITS.search(content := self._read(size)):
            raise tarfile.ReadError("a header with a number of 128 digits")
        return content


def split_name(name: str) -> tuple[str, str]:
    """Split a/b.seg.mp4 into a/b and seg.mp4."""
    folder, file = posixpath.split(name)
    key, _, extension = file.partition(".")
    return posixpath.join(folder, key), extension


@dataclass(frozen=True)
class Names(Mapping[str, Any]):
    """The members of a shard by each name that a record may use: an extension is enough for those of its sample, and
    the others' names count from the folder of the record or from that of the shard."""

    own: Members
    members: Members
    folder: str

    def __getitem__(self, name: str) -> tuple[str, Segment | Part]:
        if name in self.own:
            return self.own[name]
        near = posixpath.normpath(posixpath.join(self.folder, name))
        return self.members[near if near in self.members else name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.own, *self.members]))

    def __len__(self) -> int:
        return len(dict.fromkeys(self))


def _values_of(text: str, name: str, on_problem: Callable[[UserError], None]) -> Iterator[Record]:
    """Read a record, those of a list or of an object's "data", or the turns of one."""
    try:
        with about_record(name):
            is_list = Letters(io.StringIO(text)).peek() == "["
            first = next(read_list(Letters(io.StringIO(text)), name, lambda problem: None), None) if is_list else None
            value = None if is_list and not (first and is_turns([first.content])) else parsed(text, name)
    except UserError as problem:
        return on_problem(problem)
    if (letters := Letters(io.StringIO(text))).enter_data():
        yield from read_list(letters, name, on_problem, is_wrapped=True)
    elif not is_list:
        yield Record(value, name)
    elif value and is_turns(value):
        yield Record({"conversations": value}, name)
    else:
        yield from read_list(Letters(io.StringIO(text)), name, on_problem)


def is_turns(value: list) -> bool:
    """Tell the turns of one conversation from a list of records."""
    return bool(value) and all(isinstance(turn, dict) and ("from" in turn or "role" in turn) for turn in value)
