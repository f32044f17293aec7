"""What a record says about a picture or a clip: where its bytes are, which part of it, which frames."""

import os
import re
from dataclasses import dataclass, field
from hashlib import sha256
from mimetypes import guess_type

from data.media.frame_sampling import UNIFORM, Sampling

KINDS = ("image", "video")


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
    """Where downloaded media are kept, and what one of them may take."""

    folder: str
    max_bytes: int = 1024 * 2**20
    seconds: float = 120.0


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
    """A clip whose frames are pictures, `fps` of them a second (None: nobody knows); none are listed where they are
    those of a folder."""

    frames: tuple["Media", ...] = ()
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or a clip.

    path: the file, or the name that stands for it where `place` says where its bytes are. `start` and `end` are
    seconds from a clip's first frame; None is its own start or end. `sampling` says which of its frames are taken;
    rows of training set it.
    """

    kind: str  # "image" | "video"
    path: str
    start: float | None = None
    end: float | None = None
    sampling: Sampling = UNIFORM
    place: Segment | Cell | Address | Part | Pictures | None = None


def identity(item: Media) -> tuple:
    """What changes when the bytes of a picture or clip do: of its file the real path, size in bytes and time of change
    in ns, and which part of it; of a clip of pictures those of all; the digest of an address, where nothing may change.

    OSError for a file that is missing.
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
    if is_of_pictures(item):
        return item.place and item.place.fps, *(identity(frame) for frame in pictures_of(item))
    return _file_identity(item.path)


def _digest(url: str) -> str:
    return sha256(url.encode(errors="surrogatepass")).hexdigest()


def _file_identity(path: str) -> tuple:
    status = os.stat(path)
    return os.path.realpath(path), status.st_size, status.st_mtime_ns


def size(item: Media) -> int | tuple:
    """What of a picture's or clip's bytes can be told without reading them, wherever they are: their number, or that
    of the table that holds them, and nothing of an address. OSError for a file that is missing."""
    match item.place:
        case Segment(size=number) | Part(size=number):
            return number
        case Cell(file, column, record, item_number):
            return os.stat(file).st_size, column, record, item_number
        case Address():
            return ()
    if is_of_pictures(item):
        return tuple(size(frame) for frame in pictures_of(item))
    return os.stat(item.path).st_size


def is_of_pictures(item: Media) -> bool:
    """Whether a clip is a list or a folder of pictures."""
    return isinstance(item.place, Pictures) or (
        item.kind == "video" and item.place is None and os.path.isdir(item.path)
    )


def pictures_of(item: Media) -> tuple[Media, ...]:
    """The frames of a clip of pictures: as they are listed, or those of the folder in natural order (2 before 10).

    OSError for a folder that cannot be read.
    """
    if item.place and item.place.frames:
        return item.place.frames
    names = [name for name in os.listdir(item.path) if (guess_type(name)[0] or "").startswith("image/")]
    return tuple(Media("image", os.path.join(item.path, name)) for name in sorted(names, key=_natural))


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"([0-9]+)", name) if part]
