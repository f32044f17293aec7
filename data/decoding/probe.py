"""Everything that is in a picture or clip, decoded to see whether it can be: for the check before training."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.decoding.decode import check_one_size, decode, frame_times
from data.decoding.image import PILLOW_ERRORS, load_image, open_picture
from data.decoding.video import check_clip
from data.errors import UserError
from data.files import AnyPath
from data.media.frame_sampling import frames_between
from data.media.reference import Kind, Media, Pictures, Place
from data.media.storage import frames_of, local_file

# Codes of a JPEG that belong to no picture in particular, then the same behind each of the markers that may stand
# inside of one.
JUNK = b"\x55\xaa\x13\x9e" * 64
FILLING = JUNK + b"".join(bytes([0xFF, 0xD0 + number]) + JUNK for number in range(8))
END_OF_JPEG = b"\xff\xd9"


@dataclass(frozen=True)
class File:
    """One picture or clip, and the parts of it that records take: (start, end) seconds, None for its own ends."""

    kind: Kind
    path: str
    spans: tuple[tuple[float | None, float | None], ...] = ((None, None),)
    place: Place | None = None

    @property
    def media(self) -> list[Media]:
        """Return what records take of it."""
        return [Media(self.kind, self.path, start, end, place=self.place) for start, end in self.spans]


def probe(file: File) -> list[str | None]:
    """Decode all of a file; return for each of `file.spans` None or the reason why it cannot be used, in one line.

    Frames that are damaged within are seen where their decoder reports it: H.264 and MPEG-4 mostly do, HEVC and VP9
    have no redundancy that would tell.
    """
    try:
        if isinstance(file.place, Pictures):
            return check_pictures(file.media, file.place)
        with local_file(file.media[0]) as path:
            if file.kind == "video":
                return check_clip(path, file.spans)
            check_picture(path)
    except UserError as problem:
        return [str(problem)] * len(file.spans)
    return [None] * len(file.spans)


def check_pictures(media: Sequence[Media], pictures: Pictures) -> list[str | None]:
    """Decode all pictures of a clip; return for each of `media`, parts of it, None or why it cannot be used."""
    frames = frames_of(media[0])
    for frame in frames:
        if (reason := probe(File(frame.kind, frame.path, place=frame.place))[0]) is not None:
            raise UserError(reason)
    check_one_size(media[0], ((frame, decode(frame, 1).shape) for frame in frames))
    reasons: list[str | None] = []
    for item in media:
        try:
            frames_between(frame_times(item, pictures.fps, len(frames)), item.start, item.end)
            reasons.append(None)
        except ValueError as error:
            reasons.append(f"{item.path!r}: {error}; correct its record")
    return reasons


def check_picture(path: AnyPath) -> None:
    """Raise UserError for a picture that `load_image` refuses, or of which a part is missing or damaged."""
    load_image(path)
    try:
        with open_picture(path) as file:
            file.verify()  # check sums of PNG, which loading skips
        damaged = file.format == "JPEG" and is_half_read(Path(path).read_bytes())
    except PILLOW_ERRORS as error:
        raise UserError(f"{str(path)!r} is damaged: {error}") from error
    if damaged:
        raise UserError(f"{str(path)!r} ends before its last pixel; copy or download it again")


def is_half_read(data: bytes) -> bool:
    """Tell whether a JPEG ends before its last pixel: the rest is grey or smeared then, and Pillow says nothing.

    Junk before the end changes the pixels of such a file, and of no complete one.
    """
    end = data.rfind(END_OF_JPEG)
    if end < 0:
        return False
    pixels = []
    for content in (data, data[:end] + FILLING + data[end:]):
        with open_picture(io.BytesIO(content)) as image:
            pixels.append(np.asarray(image))
    complete, filled = pixels
    return not np.array_equal(complete, filled)
