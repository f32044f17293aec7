"""A reference to a picture or clip -> its pixels, knowing nothing of models and processors."""

from collections.abc import Iterable

import av.subtitles.stream  # noqa: F401
import numpy as np
from PIL import Image

from data.decoding.image import load_image
from data.decoding.video import read_frames
from data.errors import OutageError, UserError
from data.media.frame_sampling import choose_frames
from data.media.reference import Media, Pictures
from data.media.storage import fetch_again, frames_of, local_file

# PyAV and Pillow import the rest of themselves with the first file that wants it: under a limit on memory that may
# fail, with an ImportError that says nothing of memory.
Image.init()


def decode(item: Media, num_frames: int) -> np.ndarray:
    """Decode a picture into (h, w, 3) or a clip into (num_frames, h, w, 3): RGB, upright, uint8. Raises UserError.

    What was downloaded and cannot be decoded is downloaded once more.
    """
    if isinstance(item.place, Pictures):
        return _decode_pictures(item, item.place, num_frames)
    try:
        return _decode_file(item, num_frames)
    except OutageError:
        raise
    except UserError:
        if not fetch_again(item):
            raise
    return _decode_file(item, num_frames)


def _decode_file(item: Media, num_frames: int) -> np.ndarray:
    with local_file(item) as path:
        if item.kind == "image":
            return np.asarray(load_image(path))
        return read_frames(path, num_frames, start=item.start, end=item.end, sampling=item.sampling)


def _decode_pictures(item: Media, pictures: Pictures, num_frames: int) -> np.ndarray:
    """Open the chosen pictures alone."""
    frames = frames_of(item)
    try:
        times = frame_times(item, pictures.fps, len(frames))
        wanted = choose_frames(times, num_frames, start=item.start, end=item.end, sampling=item.sampling)
    except ValueError as error:
        raise UserError(f"{item.path!r}: {error}; correct its record") from error
    decoded = {index: decode(frames[index], num_frames) for index in sorted(set(wanted))}
    check_one_size(item, ((frames[index], pixels.shape) for index, pixels in decoded.items()))
    return np.stack([decoded[index] for index in wanted])


def frame_times(item: Media, fps: float | None, total: int) -> np.ndarray:
    """Return the seconds from the first of `total` pictures, (total,).

    Raises ValueError where the clip's part or sampling is meant in seconds and its `fps` is not known.
    """
    if fps is None and (item.start, item.end, item.sampling.way == "fps") != (None, None, False):
        raise ValueError("seconds of a clip of pictures need its fps; add 'fps' to its part")
    return np.arange(total) / (fps or 1.0)


def check_one_size(item: Media, shapes: Iterable[tuple[Media, tuple[int, ...]]]) -> None:
    """Raise UserError where the frames of a clip differ in size. shapes: (picture, its (h, w, 3))."""
    (first, expected), *others = shapes
    for frame, shape in others:
        if shape != expected:
            (height, width, _), (other_height, other_width, _) = expected, shape
            raise UserError(
                f"{item.path!r}: its pictures are of unequal sizes, {first.path!r} of {width} x {height} pixels and "
                f"{frame.path!r} of {other_width} x {other_height}; resize them"
            )
