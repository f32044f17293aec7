"""The cheap check that every picture and clip gets before it is decoded."""

import errno
import os
import stat
from typing import BinaryIO

from data.errors import UserError, refused
from data.files import AnyPath
from data.media.reference import Kind

PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
STILL_BRANDS = (b"avif", b"avis", *HEIC_BRANDS)  # pictures in an MP4-like container
CLIP_STARTS = (b"\x1aE\xdf\xa3", b"FLV", b"OggS", b"0&\xb2u", b"\0\0\1\xba", b"\0\0\1\xb3")
QUICKTIME_BOXES = (b"ftyp", b"moov", b"mdat", b"wide")
TS_SYNC, TS_PACKET_BYTES = 0x47, 188  # ISO 13818-1: each packet of a transport stream begins so, and is so long
HEAD_BYTES = 256  # hold all of the above, and the second packet of a transport stream
TAIL_BYTES = 64  # hold a GIF's trailer, and the junk that some writers put behind it


def check_media_file(path: AnyPath, kind: Kind) -> None:
    """Raise UserError for a file that cannot be read, is empty, of the other kind, or shorter than it says itself.

    This decodes nothing. OutageError says that the file could not be looked at.
    """
    name = repr(str(path))
    try:
        head, tail, size, declared_size = _read_ends(path)
    except OSError as error:
        raise refused(f"{name} cannot be read: {error.strerror}", error) from error
    except ValueError as error:  # a NUL character
        raise UserError(f"{name} cannot be the name of a file: {error}") from error
    if not head:
        raise UserError(f"{name} is empty (0 bytes); copy or download it again")
    if _kind(head) not in (kind, None):
        raise UserError(f"{name} is given as {kind} but holds {_kind(head)} data; correct its record")
    if declared_size > size or (kind == "video" and _lacks_end(head, tail, size)):
        raise UserError(f"{name} is truncated ({size} bytes, then it stops); copy or download it again")


def _read_ends(path: AnyPath) -> tuple[bytes, bytes, int, int]:
    """Read a file's first and last bytes, its size, and the size that it says it has (0: it does not say)."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # before opening: a named pipe would wait for ever
        raise OSError(errno.EINVAL, "it is not a file")
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read()
        return head, tail, size, _end_of_boxes(file) if head[4:8] in QUICKTIME_BOXES else _declared_size(head)


def _end_of_boxes(file: BinaryIO) -> int:
    """Find where the last box of an MP4 or QuickTime file would end: behind the file's end when its tail is missing."""
    end = 0
    while file.seek(end) == end and len(header := file.read(16)) >= 8 and header[4:8].isalnum():
        size = int.from_bytes(header[:4] if header[:4] != b"\0\0\0\1" else header[8:])
        if size < 8:  # 0: up to the end of the file
            break
        end += size
    return end


def _kind(head: bytes) -> Kind | None:
    """Tell what the first bytes show; None for what may be either (an animated GIF) or is not known."""
    if head.startswith(PICTURE_STARTS) or (head[4:8] == b"ftyp" and head[8:12] in STILL_BRANDS):
        return "image"
    is_clip = head.startswith(CLIP_STARTS) or head[4:8] in QUICKTIME_BOXES or head[8:12] == b"AVI "
    return "video" if is_clip or _is_transport_stream(head) else None


def _is_transport_stream(head: bytes) -> bool:
    return head[0] == TS_SYNC and head[TS_PACKET_BYTES : TS_PACKET_BYTES + 1] == bytes([TS_SYNC])


def _lacks_end(head: bytes, tail: bytes, size: int) -> bool:
    """Find a GIF without its trailer (junk after it is usual), or an MPEG-TS with a broken last packet."""
    return (head[:3] == b"GIF" and b"\0;" not in tail) or (_is_transport_stream(head) and size % TS_PACKET_BYTES > 0)


def _declared_size(head: bytes) -> int:
    """Read how many bytes an AVI, WebP, Matroska or WebM file says it has; 0 where it does not say."""
    if head.startswith(b"RIFF"):  # plus the 8 bytes of this header, which some writers count in
        return int.from_bytes(head[4:8], "little") % 0xFFFFFFFF
    segment = head.find(b"\x18S\x80g", 0, -9) + 4 if head.startswith(b"\x1aE\xdf\xa3") else 0
    if segment < 4:
        return 0
    start = segment + 9 - head[segment].bit_length()  # the size's own length: its leading zero bits plus one
    size_bits = 7 * (start - segment)
    size = int.from_bytes(head[segment:start]) % (1 << size_bits)
    return 0 if size == (1 << size_bits) - 1 else start + size  # all ones: unknown, a live recording
