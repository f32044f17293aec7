"""Media wherever they are -> files that decoders open."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import PurePath
from tempfile import NamedTemporaryFile
from typing import IO

from data.errors import NO_FOLDER, OutageError, UserError, in_words, refused, way_out
from data.media.file_check import check_media_file
from data.media.reference import Address, Cell, Media, Part, Pictures, Segment, pictures_of

CHUNK_BYTES = 2**20  # copied at once


class LocalFile(os.PathLike[str]):
    """A file to open under `path`, which messages call `name`: that is what str() gives."""

    def __init__(self, path: str, name: str):
        self.path, self.name = path, name

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.name


@contextmanager
def local_file(item: Media) -> Iterator[LocalFile]:
    """Give the file of a picture or clip, itself or a copy that lasts as long as the context.

    Raises UserError, with the name of `item`, for bytes that cannot be had, OutageError where that may pass.
    """
    if item.place is None:
        yield LocalFile(item.path, item.path)
        return
    if isinstance(item.place, Address):
        yield LocalFile(_download(item.place, item.path), item.path)
        return
    with ExitStack() as closing:
        try:
            copy = closing.enter_context(_temporary_file(item))
            match item.place:
                case Segment():
                    _copy(item.place, copy)
                case Cell():
                    copy.write(_read_cell(item.place))
                case Part():
                    copy.write(_read_part(item.place, item.path))
            copy.flush()
        except OSError as error:
            raise refused(f"{item.path!r} cannot be read: {error.strerror or error}", error) from error
        yield LocalFile(copy.name, item.path)


def _temporary_file(item: Media) -> IO[bytes]:
    """Open a file for a copy. What keeps us from that is the machine's; tempfile says ENOENT of a full disk, too."""
    try:
        return NamedTemporaryFile(prefix="reeltune-", suffix=PurePath(item.path).suffix)
    except OSError as error:
        raise OutageError(
            f"{item.path!r} cannot be copied: {in_words(error)}; {way_out(error, NO_FOLDER)} in TMPDIR"
        ) from error


# Processes that decode are many, and small: pyarrow and the hub's client are for those that need them.


def _download(address: Address, name: str) -> str:
    from data.media.download import download

    return download(address, name)


def fetch_again(item: Media) -> bool:
    """Let a file from an address that cannot be decoded be fetched once more; returns whether it will be."""
    if not isinstance(item.place, Address):
        return False
    from data.media.download import fetch_again

    return fetch_again(item.place)


def _read_cell(cell: Cell) -> bytes:
    from data.media.cells import read_cell

    return read_cell(cell)


def _read_part(part: Part, name: str) -> bytes:
    from data.media.http_file import read_part

    return read_part(part, name)


def _copy(segment: Segment, target: IO[bytes]) -> None:
    with open(segment.file, "rb") as file:
        file.seek(segment.offset)
        left = segment.size
        while left:
            if not (piece := file.read(min(left, CHUNK_BYTES))):
                raise OSError(f"{segment.file} ends before it; copy or download that file again")
            target.write(piece)
            left -= len(piece)


@contextmanager
def fetched(item: Media) -> Iterator[Media]:
    """Bring all bytes of `item` to this machine, and return it as it is here.

    What is behind an address stays in its cache; a part of a file that is read in place becomes a copy that lasts as
    long as the context. Raises UserError for what cannot be had.
    """
    with ExitStack() as copies:
        match item.place:
            case Address():
                _download(item.place, item.path)
            case Part(size=size):
                copy = copies.enter_context(local_file(item))
                item = replace(item, place=Segment(copy.path, 0, size))
            case Pictures(frames, fps):
                frames = tuple(copies.enter_context(fetched(frame)) for frame in frames)
                item = replace(item, place=Pictures(frames, fps))
        yield item


def read_through(item: Media) -> None:
    """Read every byte of a picture or clip. Raises UserError for what cannot be had, OutageError where it may pass."""
    if isinstance(item.place, Pictures):
        for frame in frames_of(item):
            read_through(frame)
        return
    with local_file(item) as path:
        try:
            with open(path, "rb") as file:
                while file.read(CHUNK_BYTES):
                    pass
        except OSError as error:
            raise refused(f"{item.path!r} cannot be read: {error.strerror}", error) from error


def check_media(item: Media) -> None:
    """Check what costs next to nothing; raises UserError.

    A file is looked at as `check_media_file` does; a clip of pictures must have some, the first of them sound; bytes
    within another file must not be none. What is to be downloaded is not looked at.
    """
    if isinstance(item.place, Pictures):
        check_media(frames_of(item)[0])
    elif item.place is None:
        check_media_file(item.path, item.kind)
    elif isinstance(item.place, Segment | Part) and not item.place.size:
        raise UserError(f"{item.path!r} is empty (0 bytes); copy or download it again")


def frames_of(item: Media) -> tuple[Media, ...]:
    """Return `pictures_of` a clip; raises UserError where there are none."""
    try:
        frames = pictures_of(item)
    except OSError as error:
        raise refused(f"{item.path!r} cannot be read: {error.strerror}", error) from error
    if not frames:
        raise UserError(f"{item.path!r} is not a file, and no folder of frames: there is no picture in it")
    return frames
