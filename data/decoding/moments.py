"""The moments of a clip at which its frames are taken, for people who look at them."""

from dataclasses import dataclass

import av
import numpy as np

from data.decoding.container import list_packets, open_clip
from data.decoding.decode import frame_times
from data.decoding.seeking import can_seek, start_check
from data.errors import UserError
from data.media.frame_sampling import choose_frames
from data.media.reference import Media, Pictures
from data.media.storage import frames_of, local_file


@dataclass(frozen=True)
class Moments:
    """Seconds from a clip's first frame at which its frames are taken, and how long the clip is.

    is_exact: no other frames can be there than its container says.
    """

    taken: tuple[float, ...]
    length: float
    is_exact: bool


def moments_of(item: Media, num_frames: int) -> Moments | None:
    """Return when the frames of a clip are taken; None where nobody knows. Decodes nothing."""
    try:
        times, is_exact = _times(item)
        if times is None:
            return None
        taken = choose_frames(times, num_frames, start=item.start, end=item.end, sampling=item.sampling)
    except (UserError, ValueError, OSError, av.error.FFmpegError):  # a frame cache may have outlived the clip
        return None
    frame = float(times[-1]) / (len(times) - 1) if len(times) > 1 else 0.0
    return Moments(tuple(float(times[index]) for index in taken), float(times[-1]) + frame, is_exact)


def _times(item: Media) -> tuple[np.ndarray | None, bool]:
    """Return the seconds of all frames, None without any, and whether they are known without a doubt."""
    if isinstance(item.place, Pictures):
        fps = item.place.fps
        return (None if fps is None else frame_times(item, fps, len(frames_of(item)))), True
    with local_file(item) as path, open_clip(path) as (container, stream):
        index = list_packets(container, stream, path, start_check(stream))
        times = index.timeline(len(index.shown)).times
        return (times if len(times) else None), can_seek(index, stream)
