"""Some frames of a clip without decoding the others, bit for bit those of decoding everything, or nothing at all.

Decoders cannot begin anywhere: a frame is decoded from the last key frame before it. The index tells which packet
brings which frame. FFmpeg does not promise to arrive where it was asked to, and decoders do not say that they began
in the wrong place, so every packet and frame on the way is compared with the index. Whatever is not as it says is a
reason to give up, so that a wrong frame is never returned.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from data.decoding.container import PacketIndex, packets, to_pixels

# Containers that say when each frame is shown. AVI and raw streams say in which order they are decoded, if anything.
TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "flv")
# Codecs of which every packet is one frame, no more and no less. VP8 has packets that show nothing, MPEG-4 packets
# that repeat a frame or hold two, GIF frames that keep parts of the last one: these are decoded in order.
# av1 and vp9 have other names where another library decodes them.
ONE_FRAME_A_PACKET = ("h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d")
# Where a frame says itself that no other refers to it. In HEVC, those of another temporal layer still may.
MARKS_REFERENCES = ("h264",)
CHECKED_STARTS = ("h264",)  # by `start_check`, before anything is decoded
NAL_TYPE, NAL_IDR = 31, 5  # the bits of a unit's first byte that tell its type, and a slice of a frame to begin with
UNKNOWN, PROGRESSIVE = 0, 1  # of FFmpeg's AVFieldOrder; two fields may come in two packets


def start_check(stream: VideoStream) -> Callable[[Packet], bool]:
    """Return a test that tells key frames behind which nothing refers to what was before them, by their packets.

    In H.264 containers also mark frames that begin a refresh or an open group, so it must hold an IDR slice. In HEVC,
    VP9 and AV1 the decoder tells.
    """
    if stream.codec_context.name not in CHECKED_STARTS:
        return lambda packet: True
    extradata = stream.codec_context.extradata or b""
    # ISO 14496-15: an avcC begins with its version, 1; four bytes later stands the size of the lengths, minus 1.
    length_size = (extradata[4] & 3) + 1 if extradata[:1] == b"\1" and len(extradata) > 4 else 0
    return lambda packet: NAL_IDR in nal_types(bytes(packet), length_size)


def nal_types(data: bytes, length_size: int) -> Iterator[int]:
    """Yield the types of the H.264 units in a packet, each behind its length, or behind 00 00 01 for length_size 0."""
    at = 0
    if length_size:
        while at + length_size < len(data):
            yield data[at + length_size] & NAL_TYPE
            at += length_size + int.from_bytes(data[at : at + length_size])
        return
    while (at := data.find(b"\0\0\1", at) + 3) >= 3 and at < len(data):
        yield data[at] & NAL_TYPE


def can_seek(index: PacketIndex, stream: VideoStream) -> bool:
    """Tell whether the index says without a doubt which packet brings which frame.

    Every condition was found with a file that broke without it; where one fails, the clip is decoded in order, which is
    slower and never wrong.
    """
    codec, container = stream.codec_context, stream.container.format.name
    return (
        container in TIMED_CONTAINERS
        and codec.name in ONE_FRAME_A_PACKET
        # Fields may come in two packets for one frame: the n-th packet is not the n-th frame then.
        and codec.field_order in (UNKNOWN, PROGRESSIVE)
        # Decoding in order says how much of a damaged file can be had, which seeking would not find out.
        and not index.is_damaged
        # Frames are recognised by their pts: two of one time could not be told apart.
        and index.has_unique_pts
        # A container that announces another number than it has was cut, or joined late: frames may be missing.
        and 0 < len(index.shown) == index.num_promised
        # A decoder that keeps frames back for others, of which none are: these are times of decoding.
        and (not codec.has_b_frames or index.shown != sorted(index.shown))
        # Frames before the first key frame, in either order, may or may not come out of a decoder.
        and index.can_start[0]
        and index.pts_of(0) == min(map(index.pts_of, range(len(index.pts))))
    )


def seek_frames(
    container: InputContainer, stream: VideoStream, index: PacketIndex, wanted: Sequence[int]
) -> dict[int, np.ndarray] | None:
    """Decode the frames number `wanted` of those shown, uint8 (H, W, 3), upright.

    Returns None where `can_seek` promised too much: a packet or frame is not the one that the index says.
    """
    size = stream.codec_context.width, stream.codec_context.height
    number = {index.shown[frame]: frame for frame in wanted}
    frames = {}
    try:
        for start, packets_wanted in _runs(index, sorted(number)).items():
            run = Run(container, stream, index, start, packets_wanted)
            for frame in run.frames():
                if (frame.width, frame.height) != size:  # it would be scaled to the first frame's size, not seen here
                    return None
                if (packet := run.packet_of(frame)) is not None:
                    frames[number[packet]] = to_pixels(frame, *size)
    except (av.error.FFmpegError, NotAsIndexed):
        return None  # decoding in order tells what is wrong, or gets by
    return frames if len(frames) == len(number) else None


def _runs(index: PacketIndex, wanted: Sequence[int]) -> dict[int, list[int]]:
    """Group the wanted packets by the key frame with which their decoding begins.

    It is the last one that comes before them both in decoding and in showing: B-frames that are decoded behind a key
    frame and shown before it need the group before that key frame.
    """
    runs: dict[int, list[int]] = {}
    for packet in wanted:
        start = packet
        while not (index.can_start[start] and index.pts_of(start) <= index.pts_of(packet)):
            start -= 1
        runs.setdefault(start, []).append(packet)
    return runs


class NotAsIndexed(Exception):
    """Another packet or frame came than the index says."""


@dataclass
class Run:
    """Decoding from packet `start` to the last of `wanted`."""

    container: InputContainer
    stream: VideoStream
    index: PacketIndex
    start: int
    wanted: Sequence[int]

    def __post_init__(self):
        self._packets = {self.index.pts[packet]: packet for packet in self.wanted}

    def packet_of(self, frame: av.VideoFrame) -> int | None:
        """Return the wanted packet that brought this frame: decoders hand a packet's pts on to its frame."""
        return None if frame.pts is None else self._packets.get(frame.pts)

    def frames(self) -> Iterator[av.VideoFrame]:
        """Yield the frames that come out on the way; those that no other refers to are skipped unless wanted.

        Raises NotAsIndexed when one is damaged, comes out of order, or the first is not the key frame: decoders show
        grey or broken frames rather than none when they were put down at the wrong place.
        """
        codec, last_pts = self.stream.codec_context, None
        for number, packet in self._read():
            skips = codec.name in MARKS_REFERENCES and number not in self.wanted
            codec.skip_frame = "NONREF" if skips else "DEFAULT"
            frames = codec.decode(packet)
            if number == self.wanted[-1]:
                frames += codec.decode(None)  # it has kept frames back to put them in order; now it gives them all out
            for frame in frames:
                if frame.is_corrupt or frame.pts is None:
                    raise NotAsIndexed
                if not (self._is_start(frame) if last_pts is None else frame.pts > last_pts):
                    raise NotAsIndexed
                last_pts = frame.pts
                yield frame

    def _read(self) -> Iterator[tuple[int, Packet]]:
        """Yield the packets from `start` to the last wanted one, with their numbers.

        A container may be put down earlier than asked for, so packets before `start` are passed over; from there on,
        each must be the next of the index.
        """
        index, number = self.index, self.start
        times = (index.pts[number], index.dts[number])
        # Some containers are indexed by pts, some by dts: the earlier leads to this key frame or one before it.
        self.container.seek(min(time for time in times if time is not None), stream=self.stream)
        for packet in packets(self.container, self.stream):
            if packet.pts == index.pts[number] and packet.size:
                yield number, packet
                if number == self.wanted[-1]:
                    return
                number += 1
            elif number > self.start:
                raise NotAsIndexed
        raise NotAsIndexed

    def _is_start(self, frame: av.VideoFrame) -> bool:
        """Tell whether it is the key frame of `start`, or one that may come first where that one is hidden.

        A hidden key frame does not come out, so nothing shows that decoding began there, unless `start_check` has
        looked into its packet.
        """
        if self.index.is_hidden[self.start]:
            return self.stream.codec_context.name in CHECKED_STARTS
        return frame.key_frame and frame.pts == self.index.pts[self.start]
