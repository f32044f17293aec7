"""Clips as a fixed number of frames: uniform over the whole clip, upright, RGB."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from data.errors import UserError
from data.media import check_frame_size, check_media_file


def frame_indices(total: int, num_frames: int) -> list[int]:
    """`np.arange(0, total, total / num_frames).astype(int)` of Video-LLaVA's documentation, in integers.

    A clip of fewer frames than asked for repeats frames.
    """
    return [i * total // num_frames for i in range(num_frames)]


def read_frames(path: str | Path, num_frames: int) -> np.ndarray:
    """The frames `frame_indices` of a clip: uint8 (num_frames, H, W, 3), RGB, turned by its display matrix.

    Decodes from the first frame to the last, because few formats seek exactly and damage shows only when
    decoded: once when the container knows its frame count, else twice. Only wanted frames are kept. Frames
    of another size than the first are scaled to it, as players do. UserError for a clip that is missing,
    truncated, damaged, without frames, or none. MPEG-TS, raw streams and live WebM declare no length: cut
    between two frames they are shorter clips.
    """
    check_media_file(path, "video")
    try:
        total = _promised_frames(path)
        for _ in range(2):
            wanted = frame_indices(total, num_frames)
            frames, decoded = _decode(path, set(wanted), total)
            if decoded == total:
                return np.stack([frames[i] for i in wanted])
            total = decoded
    except av.error.FFmpegError as error:  # base of all that FFmpeg reports: format, codec, reading, memory
        raise UserError(f"{str(path)!r} is damaged or not a video: {error.strerror}") from error
    raise UserError(f"{str(path)!r} changes while it is read; wait until it is written")


@contextmanager
def _open(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A clip's container and its first video stream; the cover picture of a sound file is none."""
    # Without "file:", FFmpeg reads "a:b.mp4" as a protocol "a". Titles are often not UTF-8, and not needed.
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        kind = container.format.name
        if kind == "image2" or kind.endswith("_pipe"):
            raise UserError(f"{str(path)!r} is given as video but is a picture ({kind}); correct its row")
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or streams[0].codec_context is None:
            raise UserError(f"{str(path)!r} ({kind}) has no video stream that FFmpeg can decode")
        codec = streams[0].codec_context
        check_frame_size(path, codec.width, codec.height)
        # One thread: FFmpeg's threads do not survive the fork of a DataLoader's workers, which then wait for
        # them for ever when they collect a frame of the parent's as garbage (also PyAV#1861, PyAV#1962); and
        # the workers, not threads in each of them, decode side by side.
        codec.thread_count = 1
        yield container, streams[0]


def _promised_frames(path: str | Path) -> int:
    """Frames that the index or the header announces, without those that an edit list hides.

    Where neither does (WebM, MPEG-TS, fragmented MP4), counts packets, which is far cheaper than decoding.
    """
    with _open(path) as (container, stream):
        if stream.frames:
            return sum(not entry.is_discard for entry in stream.index_entries) or stream.frames
        return sum(packet.size > 0 and not packet.is_discard for packet in _packets(container, stream))


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets of one stream, the last one flushing the decoder.

    PyAV 18 also flushes streams that appeared after the header (MPEG-TS, FLV), of which it has no object;
    those come behind ours, so that nothing is missing when it fails.
    """
    try:
        yield from container.demux(stream)
    except IndexError:
        return


def _decode(path: str | Path, wanted: set[int], promised: int) -> tuple[dict[int, np.ndarray], int]:
    """Wanted frames by index, uint8 (H, W, 3), and the number of frames in the clip; UserError for damage.

    Damage is a packet that is flagged (the demuxer found it incomplete), does not decode, or lies behind
    the end of the file. Fewer frames than promised alone are none: frames are dropped, streams joined late.
    """
    frames, count, damaged, size = {}, 0, False, None
    with _open(path) as (container, stream):
        for packet in _packets(container, stream):
            try:
                decoded = [] if packet.is_corrupt else packet.decode()
            except av.error.InvalidDataError:
                decoded, damaged = [], True  # go on, to say how much can be decoded
            damaged |= packet.is_corrupt
            for frame in decoded:
                damaged |= frame.is_corrupt
                size = size or {"width": frame.width, "height": frame.height}
                if count in wanted:
                    frames[count] = _upright(frame, frame.to_ndarray(format="rgb24", threads=1, **size))
                count += not frame.is_corrupt
        file_size = os.path.getsize(path)
        damaged |= any(entry.pos + entry.size > file_size for entry in stream.index_entries)
    if damaged or not count:
        state = f"{count} of {promised} frames could be decoded; copy or download it again"
        raise UserError(f"{str(path)!r} is truncated or damaged: {state}")
    return frames, count


def _upright(frame: av.VideoFrame, pixels: np.ndarray) -> np.ndarray:
    """Apply the display matrix, which PyAV leaves to its caller: x' = a x + c y, y' = b x + d y, y down.

    Quarter turns, mirrored or not, are exact; other angles, which no camera writes, go to the nearest one.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
