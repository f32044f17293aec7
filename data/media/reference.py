"""References to pictures and clips: where the bytes are, which part of a clip, which frames."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from mimetypes import guess_type
from typing import Any, Literal

from data.media.frame_sampling import UNIFORM, FrameSampling

Kind = Literal["image", "video"]
KINDS: tuple[Kind, ...] = ("image", "video")
Modality = Literal["clip", "picture", "text"]


@dataclass(frozen=True, slots=True)
class Segment:
    """`size` bytes of `file` from `offset` on: a member of a tar shard, a cell of an Arrow file."""

    file: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of a Parquet file: `record` and `item`, its place in a list, count from 0."""

    file: str
    column: str
    record: int
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Downloads:
    """A folder for downloaded media, and the limits of one: bytes, and seconds for all tries together.

    hosts: patterns of the names of hosts that may be asked; None: those with a public address.
    """

    folder: str
    max_bytes: int = 2**30
    seconds: float = 120.0
    hosts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """An http or https address. Messages never show it: it may hold a key."""

    url: str = field(repr=False)
    downloads: Downloads


@dataclass(frozen=True, slots=True)
class Part:
    """`size` bytes from `offset` on of what is behind an address: a member of a tar shard that is read in place."""

    address: Address
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Pictures:
    """A clip whose frames are pictures, `fps` of them a second (None: nobody knows).

    None are listed where they are those of a folder: references stay small, and its names are read when they are due.
    """

    frames: tuple["Media", ...] = ()
    fps: float | None = None


Place = Segment | Cell | Address | Part | Pictures


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or a clip.

    path: the file, or the name that stands for it where `place` says where its bytes are. `start` and `end` are
    seconds from a clip's first frame; None is its own start or end. `sampling` says which of its frames are taken;
    rows of training set it. A folder of pictures has
    `Pictures` for its place from the start, so that nobody asks the disk again.
    """

    kind: Kind
    path: str
    start: float | None = None
    end: float | None = None
    sampling: FrameSampling = UNIFORM
    place: Place | None = None


def modality_of(media: Iterable[Media]) -> Modality:
    """Return what a question shows: a clip where there is one, a picture where there is only that."""
    kinds = {item.kind for item in media}
    return "clip" if "video" in kinds else "picture" if kinds else "text"


def identity(item: Media) -> tuple:
    """Return what changes when the bytes of a picture or clip do.

    A file has its real path, size in bytes and time of change in ns, and which part of it is meant; a clip of pictures
    has those of all of them; an address, where nothing may change, has its digest. Raises OSError for a missing file.
    """
    match item.place:
        case Segment(file, offset, size):
            return *_file_identity(file), offset, size
        case Cell(file, column, record, item_number):
            return *_file_identity(file), column, record, item_number
        case Address(url):
            return (_digest(url),)
        case Part(Address(url), offset, size):
            return _digest(url), offset, size
        case Pictures(fps=fps):
            return fps, *(identity(frame) for frame in pictures_of(item))
    return _file_identity(item.path)


def _digest(url: str) -> str:
    return sha256(url.encode(errors="surrogatepass")).hexdigest()


def _file_identity(path: str) -> tuple[str, int, int]:
    status = os.stat(path)
    return os.path.realpath(path), status.st_size, status.st_mtime_ns


def size(item: Media) -> int | tuple[Any, ...]:
    """Return what can be told of a picture's or clip's bytes without reading them, wherever they lie.

    This is their number, or that of the table that holds them, and () for an address. Raises OSError for a file that is
    missing.
    """
    match item.place:
        case Segment(size=number) | Part(size=number):
            return number
        case Cell(file, column, record, item_number):
            return os.stat(file).st_size, column, record, item_number
        case Address():
            return ()
        case Pictures():
            return tuple(size(frame) for frame in pictures_of(item))
    return os.stat(item.path).st_size


def media_at(kind: Kind, path: str) -> Media:
    """Refer to a file, or to a clip that is a folder of pictures."""
    return Media(kind, path, place=Pictures() if kind == "video" and os.path.isdir(path) else None)


def pictures_of(item: Media) -> tuple[Media, ...]:
    """Return the frames of a clip of pictures: as they are listed, or its folder's in natural order (2 before 10).

    Raises OSError for a folder that cannot be read.
    """
    assert isinstance(item.place, Pictures), item
    if item.place.frames:
        return item.place.frames
    names = [name for name in os.listdir(item.path) if (guess_type(name)[0] or "").startswith("image/")]
    return tuple(Media("image", os.path.join(item.path, name)) for name in sorted(names, key=_natural))


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"([0-9]+)", name) if part]
