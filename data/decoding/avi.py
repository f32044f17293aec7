"""The frames that an AVI has, those among them that repeat the one before: an empty chunk stands for such a frame.

Screen recorders and webcams write few frames and many empty chunks. FFmpeg passes over these and only counts them in
the times of the frames that follow, so those behind the last coded frame do not show. Here every chunk is counted, by
its header, as far as the file goes: a file that was cut has fewer than it announces, a sparse one has them all.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from data.files import AnyPath

CHUNK = struct.Struct("<4sI")  # the head of each chunk: what it is, and how many bytes follow
LISTS = (b"RIFF", b"LIST")  # chunks that hold others, behind four bytes that tell what for
VIDEO = (b"dc", b"db")  # ends of the names of compressed and uncompressed frames, behind the number of their stream


def count_frames(path: AnyPath, stream: int) -> int:
    """Count the frames of an AVI's stream that are wholly in the file, the empty ones among them."""
    names = [b"%02d" % stream + kind for kind in VIDEO]
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        return sum(name in names and begin + length <= size for name, begin, length in _chunks(file, size))


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, first byte, bytes) of every chunk that holds no others; lists are entered, however long they say."""
    at = 0
    while at + CHUNK.size <= size:
        file.seek(at)
        name, length = CHUNK.unpack(file.read(CHUNK.size))
        at += CHUNK.size
        if name in LISTS:
            at += 4
            continue
        yield name, at, length
        at += length + length % 2  # chunks begin at even bytes
