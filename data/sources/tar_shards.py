"""Tar shards as WebDataset writes them: members that share a name up to its first dot are one sample.

`key.json` holds a record, a list of records or the turns alone; its media are the other members of the sample, or
those of the shard that the record names. Only headers and JSON are read: media are byte ranges of the shard.
"""

import json
import mimetypes
import posixpath
import tarfile
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from data.errors import UserError
from data.media.http_file import open_remote
from data.media.locate import PLACE_KEYS, without_secrets
from data.media.reference import Address, Downloads, Part, Segment
from data.sources.json_records import Record
from data.video_llava import PLACEHOLDERS

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
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
        return on_problem(UserError(f"{path}: is truncated or not a tar file ({error}); copy or download it again"))
    except UserError as problem:
        return on_problem(problem)
    except OSError as error:
        return on_problem(UserError(f"{path}: cannot read the data file: {error.strerror}"))
    samples: dict[str, Members] = defaultdict(dict)
    for name, member in members.items():
        key, extension = split_name(name)
        samples[key][extension] = member
    for name, content in contents.items():
        yield from _records_of(path, name, content, samples[split_name(name)[0]], members, on_problem)


def list_members(file: BinaryIO, path: str, address: Address | None = None) -> tuple[Members, dict[str, bytes]]:
    """List the files of a shard in its order, and read the content of those that hold records.

    path: what the shard is called. Raises UserError, or tarfile's errors, where they cannot be read one by one.
    """
    if file.read(6).startswith(COMPRESSED):
        raise UserError(f"{path}: is compressed, so its members cannot be read one by one; unpack it to a .tar")
    file.seek(0)
    members: Members = {}
    contents: dict[str, bytes] = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            name, at = member.name, (member.offset_data, member.size)
            if not member.isreg() or member.issparse() or posixpath.basename(name).startswith("._"):
                continue
            members[name] = (posixpath.join(path, name), Part(address, *at) if address else Segment(path, *at))
            if split_name(name)[1].rpartition(".")[2] == "json":
                contents[name] = _content(tar, member)
        file.seek(tar.offset)  # tarfile takes a damaged header for the end, and the end of a file that was cut, too
        if (block := file.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
            problem = "a damaged header" if len(block) == tarfile.BLOCKSIZE else "no end mark"
            raise tarfile.ReadError(f"{problem} at byte {tar.offset}")
    return members, contents


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "a regular file"
    return file.read()


def split_name(name: str) -> tuple[str, str]:
    """Split a/b.seg.mp4 into a/b and seg.mp4."""
    folder, file = posixpath.split(name)
    key, _, extension = file.partition(".")
    return posixpath.join(folder, key), extension


def _records_of(
    shard: str, member: str, content: bytes, own: Members, members: Members, on_problem: Callable[[UserError], None]
) -> Iterator[Record]:
    name = f"{shard} {member}"
    try:
        value = json.loads(content)
    except ValueError as problem:  # not JSON, or not UTF-8
        on_problem(UserError(f"{name}: not JSON: {problem}").about(name))
        return
    # Names in a record count from the folder of the shard, or from that of the record; an extension is enough, too.
    folder = posixpath.dirname(member)
    siblings = {posixpath.relpath(each, folder): found for each, found in members.items()} if folder else {}
    found = ChainMap(own, siblings, members)
    if not isinstance(value, list):
        yield Record(with_own_media(value, own), name, found)
    elif is_turns(value):
        yield Record(with_own_media({"conversations": value}, own), name, found)
    else:
        for number, record in enumerate(value, start=1):
            yield Record(with_own_media(record, own), f"{name} record {number}", found)


def is_turns(value: list) -> bool:
    """Tell the turns of one conversation from a list of records."""
    return bool(value) and all(isinstance(turn, dict) and ("from" in turn or "role" in turn) for turn in value)


def with_own_media(record: Any, own: Mapping[str, Any]) -> Any:
    """Give a record that says where its media stand, and not which they are, those of its sample."""
    if not isinstance(record, dict):
        return record
    listed = {}
    for kind in PLACEHOLDERS:
        if record.get(kind) is None and record.get(kind + "s") is None and _has_nameless(record, kind):
            names = [name for name in own if (mimetypes.guess_type(f"x.{name}")[0] or "").startswith(kind + "/")]
            listed |= {kind: names} if names else {}
    return record | listed


def _has_nameless(record: dict, kind: str) -> bool:
    turns = record.get("conversations", record.get("messages"))
    for turn in turns if isinstance(turns, list) else ():
        content = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        if isinstance(content, str) and PLACEHOLDERS[kind] in content:
            return True
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == kind and not {kind, *PLACE_KEYS} & part.keys():
                return True
    return False
