"""Tar shards as WebDataset writes them: members that share a name up to its first dot are one sample.

`key.json` holds a record, a list of records or the turns alone; its media are the other members of the sample, or
those of the shard that the record names. Only headers and JSON are read: media are byte ranges of the shard.
"""

import json
import mimetypes
import os
import posixpath
import tarfile
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterator, Mapping

from data.errors import UserError
from data.locate import PLACE_KEYS
from data.records import Row
from data.reference import Segment
from data.video_llava import PLACEHOLDERS

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
Members = dict[str, tuple[str, Segment]]


def read_shard(path: str, on_problem: Callable[[UserError], None]) -> Iterator[Row]:
    """Rows in the order of the shard. The headers of the whole shard are read first."""
    try:
        members = list_members(path)
        samples: dict[str, Members] = defaultdict(dict)
        for name, member in members.items():
            key, extension = split_name(name)
            samples[key][extension] = member
        for name, (_, segment) in members.items():
            key, extension = split_name(name)
            if extension.rpartition(".")[2] == "json":
                yield from _rows_of(f"{path} {name}", segment, samples[key], members, on_problem)
    except tarfile.TarError as error:
        on_problem(UserError(f"{path}: is truncated or not a tar file ({error}); copy or download it again"))
    except OSError as error:
        on_problem(UserError(f"{path}: cannot read the data file: {error.strerror}"))


def list_members(path: str) -> Members:
    """The files of a shard in its order; UserError or tarfile's where they cannot be read one by one."""
    with open(path, "rb") as file:
        if file.read(6).startswith(COMPRESSED):
            raise UserError(f"{path}: is compressed, so its members cannot be read one by one; unpack it to a .tar")
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members = {
                member.name: (os.path.join(path, member.name), Segment(path, member.offset_data, member.size))
                for member in tar
                if member.isreg() and not member.issparse() and not posixpath.basename(member.name).startswith("._")
            }
            file.seek(tar.offset)  # tarfile takes a damaged header for the end
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"a damaged header at byte {tar.offset}")
    return members


def split_name(name: str) -> tuple[str, str]:
    """a/b.seg.mp4 -> a/b, seg.mp4"""
    folder, file = posixpath.split(name)
    key, _, extension = file.partition(".")
    return posixpath.join(folder, key), extension


def _rows_of(
    name: str, segment: Segment, own: Members, members: Members, on_problem: Callable[[UserError], None]
) -> Iterator[Row]:
    with open(segment.file, "rb") as file:
        file.seek(segment.offset)
        content = file.read(segment.size)
    try:
        value = json.loads(content)
    except ValueError as problem:  # not JSON, or not UTF-8
        on_problem(UserError(f"{name}: not JSON: {problem}").about(name))
        return
    # Names in a record count from the folder of the shard, or from that of the record; an extension is enough, too.
    folder = posixpath.dirname(name.removeprefix(f"{segment.file} "))
    siblings = {posixpath.relpath(each, folder): found for each, found in members.items()} if folder else {}
    found = ChainMap(own, siblings, members)
    if not isinstance(value, list):
        yield Row(with_own_media(value, own), name, found)
    elif is_turns(value):
        yield Row(with_own_media({"conversations": value}, own), name, found)
    else:
        for number, record in enumerate(value, start=1):
            yield Row(with_own_media(record, own), f"{name} row {number}", found)


def is_turns(value: list) -> bool:
    return bool(value) and all(isinstance(turn, dict) and ("from" in turn or "role" in turn) for turn in value)


def with_own_media(record, own: Mapping) -> object:
    """A record that says where its media stand and not which they are takes those of its sample."""
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
