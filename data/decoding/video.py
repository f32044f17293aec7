"""Clips as a fixed number of frames, upright, RGB: those of decoding everything, without decoding everything."""

from collections.abc import Callable, Sequence

import av
import numpy as np

from data.decoding.container import (
    PacketIndex,
    Timeline,
    lies_behind_end,
    list_packets,
    open_clip,
    packets,
    to_pixels,
)
from data.decoding.seeking import can_seek, seek_frames, start_check
from data.errors import UserError, refused
from data.files import AnyPath
from data.media.file_check import check_media_file
from data.media.frame_sampling import UNIFORM, FrameSampling, choose_frames, frames_between

PIECE_BYTES = 2**20  # read at once
MIN_SHARE = 0.9  # of the announced frames must come: a stream that was joined late lacks a few, a cut file many


def read_frames(
    path: AnyPath,
    num_frames: int,
    *,
    start: float | None = None,
    end: float | None = None,
    sampling: FrameSampling = UNIFORM,
) -> np.ndarray:
    """Read frames of a clip: uint8 (num_frames, H, W, 3), RGB, turned by its display matrix.

    `choose_frames` says which: spread over the clip, or over its seconds from `start` to `end`. All frames of the clip
    count, those too that a sparse AVI repeats (see `PacketIndex.timeline`).

    This lists the packets first, which reads the file and decodes nothing. Where they tell which frame is which, it
    seeks to the frames. Everywhere else it decodes from the first frame to the last: once when there are as many frames
    as packets, else twice. Frames of another size than the first are scaled to it, as players do.

    Raises UserError for a clip that is missing, truncated, damaged, without frames, or none, or ends before `start`.
    Damage within a frame shows only where it is decoded. MPEG-TS, raw streams and live WebM declare no length: cut
    between two frames they are shorter clips.
    """
    check_media_file(path, "video")

    def choose(timeline: Timeline) -> list[int]:
        try:
            chosen = choose_frames(timeline.times, num_frames, start=start, end=end, sampling=sampling)
        except ValueError as error:
            raise UserError(f"{str(path)!r}: {error}; correct its record") from error
        return timeline.decoded[chosen].tolist()

    try:
        with open_clip(path) as (container, stream):
            index = list_packets(container, stream, path, start_check(stream))
            if can_seek(index, stream):
                wanted = choose(index.timeline(len(index.shown)))
                if (frames := seek_frames(container, stream, index, wanted)) is not None:
                    return np.stack([frames[i] for i in wanted])
        return _read_in_order(path, index, choose)
    except av.error.FFmpegError as error:  # base of all that FFmpeg reports: format, codec, reading, memory
        raise _refused(path, error) from error


def check_clip(path: AnyPath, spans: Sequence[tuple[float | None, float | None]]) -> list[str | None]:
    """Decode everything; return for each of `spans`, (start, end), None or why `read_frames` would refuse it.

    Raises UserError as `read_frames` does, also for damage between the frames that it takes, and where too few of the
    frames come that the file announces.
    """
    check_media_file(path, "video")
    try:
        with open_clip(path) as (container, stream):
            index = list_packets(container, stream, path, check_start=lambda packet: False)
            announced = max(index.num_promised, stream.frames - sum(index.is_hidden))
        _, total = _decode(path, set(), index.num_promised)
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise _refused(path, error) from error
    # Frames that an AVI repeats with empty chunks are there too, unless coded ones get lost on the way.
    found = index.num_slots if index.is_sparse and total >= MIN_SHARE * len(index.shown) else total
    if found < MIN_SHARE * announced:
        raise UserError(f"{str(path)!r} announces {announced} frames and has {found}; copy or download it again")
    return [_refused_span(path, index.timeline(total).times, *span) for span in spans]


def _refused(path: AnyPath, error: av.error.FFmpegError) -> UserError:
    """Return what to raise for FFmpeg's errors: OutageError where the file cannot be read without it either.

    Its demuxers say EIO, EPERM and ENOMEM of damaged files as well, so that the numbers tell nothing by themselves.
    """
    try:
        with open(path, "rb") as file:
            while file.read(PIECE_BYTES):
                pass
    except OSError as reading:
        return refused(f"{str(path)!r} cannot be read: {reading.strerror}", reading)
    return UserError(f"{str(path)!r} is damaged or not a video: {error.strerror}")


def _refused_span(path: AnyPath, times: np.ndarray, start: float | None, end: float | None) -> str | None:
    try:
        frames_between(times, start, end)
    except ValueError as error:
        return f"{str(path)!r}: {error}; correct its record"
    return None


def _read_in_order(path: AnyPath, index: PacketIndex, choose: Callable[[Timeline], list[int]]) -> np.ndarray:
    total = len(index.shown)
    for _ in range(2):
        wanted = choose(index.timeline(total)) if total else []
        frames, decoded = _decode(path, set(wanted), index.num_promised)
        if decoded == total:
            return np.stack([frames[i] for i in wanted])
        total = decoded
    raise UserError(f"{str(path)!r} changes while it is read; wait until it is written")


def _decode(path: AnyPath, wanted: set[int], promised: int) -> tuple[dict[int, np.ndarray], int]:
    """Decode a whole clip; return the wanted frames by index, uint8 (H, W, 3), and how many frames there are.

    Raises UserError for damage: a packet that is flagged (the demuxer found it incomplete), does not decode, or lies
    behind the end of the file. Fewer frames than promised are none by themselves: writers drop frames, and streams are
    joined late.
    """
    frames: dict[int, np.ndarray] = {}
    count, damaged, size = 0, False, None
    with open_clip(path) as (container, stream):
        for packet in packets(container, stream):
            try:
                decoded = [] if packet.is_corrupt else packet.decode()
            except av.error.InvalidDataError:
                decoded, damaged = [], True  # go on, to say how much can be decoded
            damaged |= packet.is_corrupt
            for frame in decoded:
                damaged |= frame.is_corrupt
                size = size or (frame.width, frame.height)
                if count in wanted:
                    frames[count] = to_pixels(frame, *size)
                count += not frame.is_corrupt
        damaged |= lies_behind_end(stream, path)
    if damaged or not count:
        state = f"{count} of {promised} frames could be decoded; copy or download it again"
        raise UserError(f"{str(path)!r} is truncated or damaged: {state}")
    return frames, count
