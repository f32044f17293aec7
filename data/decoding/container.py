"""A clip's container: opened, its packets listed without decoding, its frames as upright RGB."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from data.decoding.avi import count_frames
from data.decoding.image import check_frame_size
from data.errors import UserError
from data.files import AnyPath

# What FFmpeg takes for a video although it is a list of other files or addresses, which no record names: it would open
# them, wherever they are, and wait for them.
PLAYLISTS = {"concat", "dash", "hls", "imf", "lavfi", "rtp", "rtsp", "sdp", "webm_dash_manifest"}

USUAL_RATE = 25  # frames a second, where a container names no rate

_num_threads = 1  # that a decoder in this process has


@contextmanager
def open_clip(path: AnyPath) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a clip's container and its first video stream; the cover picture of a sound file is none.

    Raises UserError for what is no clip, and FFmpeg's errors.
    """
    # Without "file:", FFmpeg reads "a:b.mp4" as a protocol "a". Titles are often not UTF-8, and not needed.
    options = {"format_whitelist": ",".join(sorted(av.formats_available - PLAYLISTS))}
    with av.open(f"file:{os.fspath(path)}", metadata_errors="replace", options=options) as container:
        kind = container.format.name
        if kind == "image2" or kind.endswith("_pipe"):
            raise UserError(f"{str(path)!r} is given as video but is a picture ({kind}); correct its record")
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or streams[0].codec_context is None:
            raise UserError(f"{str(path)!r} ({kind}) has no video stream that FFmpeg can decode")
        codec = streams[0].codec_context
        check_frame_size(path, codec.width, codec.height)
        codec.thread_count = _num_threads
        yield container, streams[0]


def decode_with_threads(number: int) -> None:
    """Let each decoder have so many threads from now on, in a process that is never forked.

    FFmpeg's threads do not survive a fork: workers wait for ever when they collect a frame of their parent's as
    garbage (also PyAV#1861, PyAV#1962). So a decoder has one thread until this is called.
    """
    global _num_threads
    _num_threads = number


def share_of_cores(cores: int, num_workers: int, num_processes: int) -> int:
    """Return how many threads each of `num_workers` decoders in each of `num_processes` may have.

    One core is left to each process for training.

    Without workers, training waits while its one decoder works.
    """
    if not num_workers:
        return max(1, cores // num_processes)
    return max(1, (cores - num_processes) // (num_workers * num_processes))


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """Yield the packets of one stream, the last one flushing the decoder.

    PyAV 18 also flushes streams that appeared after the header (MPEG-TS, FLV), of which it has no object;
    those come behind ours, so that nothing is missing when it fails.
    """
    try:
        yield from container.demux(stream)
    except IndexError:
        return


@dataclass(frozen=True)
class Timeline:
    """The frames of a clip, repeated ones included.

    times: (T,), seconds from the first frame at which each is shown; decoded: (T,), the number of the decoded frame
    that it is.
    """

    times: np.ndarray
    decoded: np.ndarray


@dataclass(frozen=True)
class PacketIndex:
    """The packets that bring frames, in the order in which they are decoded.

    pts, dts: in the stream's time base, None where the container gives none; is_hidden: its frame is decoded for
    others but an edit list hides it; can_start: marked as key frame, and `check_start` of `list_packets` agrees;
    num_promised: frames that the container's own index or header announces, as many as there are packets where neither
    does (WebM, MPEG-TS, fragmented MP4); is_damaged: a packet is flagged, or lies behind the end of the file;
    num_slots: frames that are there, more than packets in an AVI whose empty chunks repeat frames.
    """

    pts: list[int | None]
    dts: list[int | None]
    is_hidden: list[bool]
    can_start: list[bool]
    num_promised: int
    is_damaged: bool
    seconds_per_frame: float
    time_base: float
    num_slots: int

    @cached_property
    def shown(self) -> list[int]:
        """Return the packets whose frames are shown, in the order of showing; in decoding order without pts."""
        shown = [i for i, is_hidden in enumerate(self.is_hidden) if not is_hidden]
        return sorted(shown, key=self.pts_of) if self.has_unique_pts else shown

    def pts_of(self, packet: int) -> int:
        """Return the time of a packet in an index with unique pts."""
        pts = self.pts[packet]
        assert pts is not None
        return pts

    @cached_property
    def has_unique_pts(self) -> bool:
        """Tell whether the times of showing put the frames in one order."""
        return None not in self.pts and len(set(self.pts)) == len(self.pts)

    def timeline(self, total: int) -> Timeline:
        """Return the frames of the clip, of which `total` come out of the decoder.

        A frame that an AVI repeats with an empty chunk is one of them, as it is to its writer and to every player.
        Elsewhere a frame stands until the next one and counts once. Times are at a constant rate where pts do not tell.
        """
        numbers = np.arange(total)
        if total != len(self.shown):
            return Timeline(numbers * self.seconds_per_frame, numbers)
        if self.is_sparse:
            chunks = np.array(sorted(self._chunks()), np.int64)
            slots = np.arange(chunks[0], self.num_slots)  # nothing is shown before the first coded frame
            return Timeline((slots - chunks[0]) * self.time_base, np.searchsorted(chunks, slots, side="right") - 1)
        if not self.has_unique_pts:
            return Timeline(numbers * self.seconds_per_frame, numbers)
        pts = np.array([self.pts_of(i) for i in self.shown], np.int64)
        return Timeline((pts - pts[:1]) * self.time_base, numbers)

    @cached_property
    def is_sparse(self) -> bool:
        """Tell whether an AVI repeats frames by empty chunks: FFmpeg counts these in the dts of the coded ones."""
        chunks = self._chunks()
        return len(self.pts) == len(set(chunks)) < self.num_slots and max(chunks) < self.num_slots

    def _chunks(self) -> list[int]:
        return [dts for dts in self.dts if dts is not None]


def list_packets(
    container: InputContainer, stream: VideoStream, path: AnyPath, check_start: Callable[[Packet], bool]
) -> PacketIndex:
    """Read the whole file and decode nothing. `check_start`: whether a decoder can begin with this key frame."""
    pts: list[int | None] = []
    dts: list[int | None] = []
    is_hidden: list[bool] = []
    can_start: list[bool] = []
    is_damaged = False
    for packet in packets(container, stream):
        if not packet.size:
            continue
        pts.append(packet.pts)
        dts.append(packet.dts)
        is_hidden.append(packet.is_discard)
        can_start.append(packet.is_keyframe and check_start(packet))
        is_damaged |= packet.is_corrupt
    rate = stream.average_rate or stream.guessed_rate or USUAL_RATE
    has_gaps = container.format.name == "avi" and len(pts) < max(stream.frames, (dts[-1] or 0) + 1 if dts else 0)
    return PacketIndex(
        pts=pts,
        dts=dts,
        is_hidden=is_hidden,
        can_start=can_start,
        num_promised=_promised_frames(stream) or is_hidden.count(False),
        is_damaged=is_damaged or lies_behind_end(stream, path),
        seconds_per_frame=float(1 / rate),
        time_base=float(stream.time_base or 0),
        num_slots=max(len(pts), count_frames(path, stream.index)) if has_gaps else len(pts),
    )


def _promised_frames(stream: VideoStream) -> int:
    """Return how many frames the container announces, less those that an edit list hides; 0 where it does not say."""
    return stream.frames and (sum(not entry.is_discard for entry in stream.index_entries) or stream.frames)


def lies_behind_end(stream: VideoStream, path: AnyPath) -> bool:
    """Tell whether the container's index points behind the end of the file."""
    size = os.path.getsize(path)
    return any(entry.pos + entry.size > size for entry in stream.index_entries)


def to_pixels(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """Return a frame as uint8 (H, W, 3), RGB, upright.

    One thread does it: see `decode_with_threads`; and the workers work side by side.
    """
    return _upright(frame, frame.to_ndarray(format="rgb24", threads=1, width=width, height=height))


def _upright(frame: av.VideoFrame, pixels: np.ndarray) -> np.ndarray:
    """Apply the display matrix, which PyAV leaves to its caller: x' = a x + c y, y' = b x + d y, y down.

    Quarter turns, mirrored or not, are exact; other angles, which no camera writes, go to the nearest one.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    numbers = bytes(matrix)  # pyrefly: ignore[bad-argument-type]: PyAV's stubs give side data no type
    a, b, _, c, d = np.frombuffer(numbers, np.int32)[:5].tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
