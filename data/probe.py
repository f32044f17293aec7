"""Everything that is in a picture or clip, decoded to see whether it can be: for the check before training."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.errors import UserError
from data.media import PILLOW_ERRORS, load_image
from data.video import check_clip

# Codes of a JPEG that belong to no picture in particular, then the same behind each of the markers that may stand
# inside of one.
JUNK = b"\x55\xaa\x13\x9e" * 64
FILLING = JUNK + b"".join(bytes([0xFF, 0xD0 + number]) + JUNK for number in range(8))
END_OF_JPEG = b"\xff\xd9"


@dataclass(frozen=True)
class File:
    """One picture or clip, and the parts of it that rows take: (start, end) seconds, None for its own ends."""

    kind: str  # "image" | "video"
    path: str
    spans: tuple[tuple[float | None, float | None], ...] = ((None, None),)


def probe(file: File) -> list[str | None]:
    """For each of `file.spans`, None or the reason why it cannot be used, in one line.

    Frames that are damaged within are seen where their decoder reports it: H.264 and MPEG-4 mostly do, HEVC and VP9
    have no redundancy that would tell.
    """
    try:
        if file.kind == "video":
            return check_clip(file.path, file.spans)
        check_picture(file.path)
    except UserError as problem:
        return [str(problem)] * len(file.spans)
    return [None] * len(file.spans)


def check_picture(path: str | Path) -> None:
    """UserError for a picture that `load_image` refuses, or of which a part is missing or damaged."""
    load_image(path)
    try:
        with Image.open(path) as file:
            file.verify()  # check sums of PNG, which loading skips
        damaged = file.format == "JPEG" and is_half_read(Path(path).read_bytes())
    except PILLOW_ERRORS as error:
        raise UserError(f"{str(path)!r} is damaged: {error}") from error
    if damaged:
        raise UserError(f"{str(path)!r} ends before its last pixel; copy or download it again")


def is_half_read(data: bytes) -> bool:
    """Whether a JPEG ends before its last pixel: what is missing then is grey or smeared, and Pillow says nothing.

    Junk before the end changes the pixels of such a file, and of no complete one.
    """
    end = data.rfind(END_OF_JPEG)
    if end < 0:
        return False
    pixels = []
    for content in (data, data[:end] + FILLING + data[end:]):
        with Image.open(io.BytesIO(content)) as image:
            pixels.append(np.asarray(image))
    return not np.array_equal(*pixels)
