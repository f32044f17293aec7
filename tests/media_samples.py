"""Makers of tiny pictures and clips for tests, sound and hostile: each writes one file, returns its path."""

import importlib.util
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition


def draw_frames(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return uint8 (num_frames, height, width, 3): no two frames, and no two corners of one, alike."""
    t, y, x = np.mgrid[:num_frames, :height, :width]
    frames = np.stack([x * 4 + t * 9, y * 5, t * 255 // num_frames], axis=-1) % 256
    frames[:, : height // 3, : width // 4] = 255
    return frames.astype(np.uint8)


def video_frame(pixels: np.ndarray, pix_fmt: str) -> av.VideoFrame:
    """Return a frame (uint8, H x W x 3) to encode; one thread, as read_frames decodes, for the tests that fork."""
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt, threads=1)


def write_clip(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container: dict[str, str] | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    **options: str,
) -> Path:
    """Encode frames (uint8, T x H x W x 3) at 12 frames a second; `options` are the codec's. The same bytes every time:
    with mbtree x264 writes another file now and then."""
    if codec == "libx264":
        options = {"x264-params": "mbtree=0", **options}
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=12, options=options)
        stream.thread_count = 1
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        if rotation:
            stream.set_display_rotation(*rotation)
        output.start_encoding()  # writes the header even where no frame follows
        for pixels in frames:
            output.mux(stream.encode(video_frame(pixels, stream.pix_fmt)))
        output.mux(stream.encode(None))
    return path


def write_sparse(path: Path, frames: np.ndarray, shown: Sequence[int], codec: str = "mjpeg", **options: str) -> Path:
    """Encode frames (uint8, T x H x W x 3) into an AVI that shows them from the chunks `shown` on, and repeats them in
    between with empty chunks, as FFmpeg's writer does."""
    with av.open(str(path), "w", options=options) as output:
        stream = output.add_stream(codec, rate=12)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = {"mjpeg": "yuvj420p", "cinepak": "rgb24", "ffv1": "bgr0"}.get(codec, "yuv420p")
        for number, pixels in zip(shown, frames, strict=True):
            frame = video_frame(pixels, stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 12)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def write_sound(path: Path, cover: np.ndarray | None = None) -> Path:
    """Write a second of silence in a video's container, with a cover picture (uint8, H x W x 3) if one is given."""
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=16000)
        if cover is not None:
            picture = output.add_stream("mjpeg", rate=1)
            picture.height, picture.width, picture.pix_fmt = *cover.shape[:2], "yuvj420p"
            picture.disposition = Disposition.attached_pic
            output.mux(picture.encode(video_frame(cover, "yuvj420p")))
            output.mux(picture.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        output.mux(sound.encode(silence))
        output.mux(sound.encode(None))
    return path


def write_two_streams(path: Path, first: np.ndarray, second: np.ndarray) -> Path:
    """Write two lossless video streams of as many frames, interleaved."""
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("ffv1", rate=12) for _ in range(2)]
        for stream, frames in zip(streams, (first, second), strict=True):
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for pair in zip(first, second, strict=True):
            for stream, pixels in zip(streams, pair, strict=True):
                output.mux(stream.encode(video_frame(pixels, stream.pix_fmt)))
        for stream in streams:
            output.mux(stream.encode(None))
    return path


def write_endless(path: Path, num_frames: int = 4_000_000) -> Path:
    """Write a GIF of 90 MB that nothing is wrong with, whose millions of frames take a decoder minutes."""
    header = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    frame = b"!\xf9\4\0\4\0\0\0," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"
    path.write_bytes(header + frame * num_frames + b";")
    return path


def cut(source: Path, target: Path, share: float) -> Path:
    """Write the first part of a file, as an interrupted copy leaves it."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def overwrite(source: Path, target: Path, start: int, new: bytes) -> Path:
    """Write a copy with some bytes replaced."""
    data = source.read_bytes()
    target.write_bytes(data[:start] + new + data[start + len(new) :])
    return target


def hide_frames(source: Path, target: Path, num_frames: int) -> Path:
    """Let the edit list of an MP4 of `write_clip` (1024 ticks a frame) start so many frames later."""
    entry = source.read_bytes().index(b"elst") + 12  # after version, flags and the number of entries
    duration, start = struct.unpack_from(">Ii", source.read_bytes(), entry)
    later = struct.pack(">Ii", duration - num_frames * 1000 // 12, start + num_frames * 1024)
    return overwrite(source, target, entry, later)


def turn_track(source: Path, target: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a display matrix (-1, 0 or 1 each) into the track header of an MP4, as a camera does."""
    matrix = source.read_bytes().index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    return overwrite(source, target, matrix, struct.pack(">5i", a << 16, b << 16, 0, c << 16, d << 16))


def write_tiff(path: Path, grey: np.ndarray) -> Path:
    """Write 16-bit greys in the big-endian order of old scanners and microscopes, which Pillow opens as "I;16B"."""
    height, width = grey.shape
    data = grey.astype(">u2").tobytes()
    short = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 277: 1, 278: height}
    tags = [(tag, 3, 1, value << 16) for tag, value in short.items()] + [
        (273, 4, 1, 8),
        (279, 4, 1, len(data)),
    ]
    directory = struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", *tag) for tag in sorted(tags))
    path.write_bytes(b"MM\0*" + struct.pack(">I", 8 + len(data)) + data + directory + bytes(4))
    return path


def installed_file(package: str, name: str) -> Path:
    """Return a real picture or clip that an installed package brings; skip the test where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0]) / name
