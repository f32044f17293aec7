"""Files that would stop a run, hang it, take all its memory, or go through it unseen: name -> what a report says."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.media_samples import cut, draw_frames, overwrite, write_clip, write_sound


def write_png(path: Path, width: int, height: int, data: bytes = b"") -> Path:
    """Return a PNG of greys; `data` are the compressed rows."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def announce(source: Path, target: Path, num_frames: int) -> Path:
    """Write an AVI whose headers promise so many frames."""
    data = source.read_bytes()
    for name, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        at = data.index(name) + offset
        data = data[:at] + struct.pack("<I", num_frames) + data[at + 4 :]
    target.write_bytes(data)
    return target


def hostile_clips(folder: Path) -> dict[str, str]:
    frames = draw_frames(24)
    good = write_clip(folder / "good.mp4", frames, g="6", bf="0")
    fast = write_clip(folder / "fast.mp4", frames, container={"movflags": "faststart"})
    webm = write_clip(folder / "good.webm", frames, "libvpx-vp9")
    stream = write_clip(folder / "good.ts", frames)
    mpeg = write_clip(folder / "good.avi", draw_frames(107), "mpeg4")
    size = good.stat().st_size
    random = np.random.default_rng(0)
    (folder / "zero.mp4").write_bytes(b"")
    cut(good, folder / "truncated.mp4", 0.7)
    cut(fast, folder / "late_truncated.mp4", 0.8)
    cut(webm, folder / "truncated.webm", 0.7)
    cut(stream, folder / "truncated.ts", 0.71)
    cut(mpeg, folder / "truncated.avi", 0.7)
    overwrite(good, folder / "noise.mp4", 48, random.bytes(size - 48))
    overwrite(mpeg, folder / "noise.avi", mpeg.stat().st_size // 2, random.bytes(2000))
    (folder / "noise.webm").write_bytes(webm.read_bytes()[:64] + random.bytes(3000))
    overwrite(good, folder / "damaged.mp4", 800, bytes(400))
    overwrite(good, folder / "no_index.mp4", good.read_bytes().rindex(b"moov"), b"none")
    (folder / "noise_only.mp4").write_bytes(random.bytes(5000))
    (folder / "zeros.mp4").write_bytes(bytes(5000))
    (folder / "page.mp4").write_text("<html><body>404 Not Found</body></html>")
    Image.fromarray(frames[0]).save(folder / "picture.jpg")
    (folder / "picture.jpg").rename(folder / "picture.mp4")
    write_sound(folder / "sound.mp4")
    write_sound(folder / "cover.mp4", cover=frames[0])
    write_clip(folder / "empty.mp4", frames[:0])
    write_clip(folder / "strip.avi", np.zeros((2, 2, 4096, 3), np.uint8), "ffv1", "bgr0")
    announce(mpeg, folder / "announced.avi", 250)
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    # FFmpeg would open the pipe that this list names and wait, in native code, for a writer that never comes.
    (folder / "endless.mp4").write_text("ffconcat version 1.0\nfile pipe.mp4\n")
    broken, no_clip = "truncated", "damaged or not a video"
    return {
        **dict.fromkeys(("truncated.mp4", "late_truncated.mp4", "truncated.webm", "truncated.ts"), broken),
        **dict.fromkeys(("truncated.avi", "noise.avi", "damaged.mp4"), broken),
        **dict.fromkeys(("noise_only.mp4", "zeros.mp4", "page.mp4", "no_index.mp4"), no_clip),
        "noise.mp4": "",
        "noise.webm": "",
        "zero.mp4": "is empty (0 bytes)",
        "picture.mp4": "is given as video but holds image data",
        "sound.mp4": "has no video stream",
        "cover.mp4": "has no video stream",
        "empty.mp4": "",
        "strip.avi": "thinner than 200 : 1",
        "announced.avi": "announces 250 frames and has 107",
        "dangling.mp4": "No such file",
        "missing.mp4": "No such file",
        "folder.mp4": "not a file",
        "pipe.mp4": "not a file",
        "endless.mp4": no_clip,
    }


def hostile_pictures(folder: Path) -> dict[str, str]:
    texture = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    jpeg, png = folder / "good.jpg", folder / "good.png"
    for path in (jpeg, png):
        Image.fromarray(texture).save(path)
    cut(jpeg, folder / "truncated.jpg", 0.5)
    half = cut(jpeg, folder / "half_read.jpg", 0.5)
    half.write_bytes(half.read_bytes().rstrip(b"\xff") + b"\xff\xd9")  # Pillow fills the rest with grey
    Image.open(half).load()
    cut(png, folder / "truncated.png", 0.5)
    overwrite(png, folder / "damaged.png", png.stat().st_size // 2, b"\0\0\0\0")
    (folder / "clip.jpg").write_bytes((folder / "good.mp4").read_bytes())
    (folder / "page.jpg").write_text("<html><body>404 Not Found</body></html>")
    write_png(folder / "strip.png", 100_000, 2, zlib.compress(bytes(2 * 100_001)))
    write_png(folder / "bomb.png", 60_000, 60_000, zlib.compress(bytes(10_000_000)))
    return {
        "truncated.jpg": "truncated",
        "half_read.jpg": "ends before its last pixel",
        "truncated.png": "",
        "damaged.png": "",
        "clip.jpg": "holds video data",
        "page.jpg": "not a picture",
        "strip.png": "thinner than 200 : 1",
        "bomb.png": "decompression bomb",
    }
