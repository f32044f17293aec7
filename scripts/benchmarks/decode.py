"""Eight frames of a clip, read in three ways, on H.264 clips that are made for it.

plain       the sequential reader of Video-LLaVA's documentation: PyAV decodes up to the last wanted frame
torchcodec  torchcodec's decoder, seek_mode="exact"; left out where it is not, or finds no FFmpeg
ours        data.video.read_frames

The clips have B-frames and one slice a frame, as cameras and web sites make them. Plain and torchcodec have the threads
that they take by themselves, ours has one.
"""

import argparse
import tempfile
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from statistics import median

import av
import numpy as np

from data.decoding.video import read_frames
from data.media.frame_sampling import frame_indices
from data.video_llava import NUM_FRAMES
from scripts.benchmarks.measure import MB, Figures, machine, seconds, spread

Reader = Callable[[Path], np.ndarray]  # returns uint8 (8, H, W, 3)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, nargs="*", default=[180, 30, 4], help="of the clips, a case each")
    parser.add_argument("--gop", type=float, default=10, help="seconds from key frame to key frame")
    parser.add_argument("--height", type=int, default=720, help="pixels; clips are 16 : 9")
    parser.add_argument("--rate", type=int, default=30, help="frames a second")
    parser.add_argument("--repetitions", type=int, default=5)


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Measure and print clip by clip; return the figures of each."""
    about: Figures = {"machine": machine(), "av": av.__version__, "torchcodec": None}
    readers: dict[str, Reader] = {"plain": read_in_order, "ours": lambda path: read_frames(path, NUM_FRAMES)}
    if has_torchcodec():
        readers["torchcodec"], about["torchcodec"] = read_with_torchcodec, version("torchcodec")
    print("{machine}, PyAV {av}, torchcodec {torchcodec}\n".format(**about) + HEADING, flush=True)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for length in arguments.seconds:
            path = Path(folder) / "clip.mp4"
            num_frames = make_clip(path, length, arguments.gop, arguments.height, arguments.rate)
            clip = {"clip_s": length, "clip_frames": num_frames, "gop_s": arguments.gop, "height": arguments.height}
            compared = compare(readers, path, arguments.repetitions)
            figures.append({"case": "decode", **clip, "clip_mb": path.stat().st_size / MB, **compared, **about})
            print(describe(figures[-1]), flush=True)
    return figures


def has_torchcodec() -> bool:
    """Return whether torchcodec is here, with an FFmpeg of the machine's that it can use."""
    with tempfile.TemporaryDirectory() as folder:
        make_clip(path := Path(folder) / "clip.mp4", 1, 1, 90, 12)
        try:
            read_with_torchcodec(path)
        except (ImportError, RuntimeError):
            return False
    return True


def compare(readers: dict[str, Reader], path: Path, repetitions: int) -> Figures:
    """Time all readers in turns, after one round that warms up and compares their frames.

    Seconds are medians, ratios are to ours; `spread` has [min, max].
    """
    frames = {name: reader(path) for name, reader in readers.items()}
    times: dict[str, list[float]] = {f"{name}_s": [] for name in readers}
    for _ in range(repetitions):
        for name, reader in readers.items():
            times[f"{name}_s"].append(seconds(lambda reader=reader: reader(path)))
    figures: Figures = {name: median(values) for name, values in times.items()}
    for name, key in {"plain": "ratio", "torchcodec": "torchcodec_ratio"}.items():
        if name in readers:
            times[key] = [theirs / ours for theirs, ours in zip(times[f"{name}_s"], times["ours_s"], strict=True)]
            figures[key] = figures[f"{name}_s"] / figures["ours_s"]
            figures[key.replace("ratio", "difference")] = largest_difference(frames["ours"], frames[name])
    return {**figures, "spread": spread(**times)}


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Return the largest difference of any two bytes; 0 says that all are equal."""
    return int(np.abs(ours.astype(np.int16) - theirs).max())


def read_in_order(path: Path) -> np.ndarray:
    """Read as the documentation's `read_video_pyav` does, and close the container."""
    with av.open(str(path)) as container:
        indices = np.arange(0, container.streams.video[0].frames, container.streams.video[0].frames / NUM_FRAMES)
        wanted, frames = set(indices.astype(int).tolist()), []
        for number, frame in enumerate(container.decode(video=0)):
            if number > max(wanted):
                break
            if number in wanted:
                frames.append(frame)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def read_with_torchcodec(path: Path) -> np.ndarray:
    # pyrefly: ignore[missing-import]  an option, which needs FFmpeg's libraries
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), seek_mode="exact", dimension_order="NHWC")
    return decoder.get_frames_at(frame_indices(len(decoder), NUM_FRAMES)).data.numpy()


def make_clip(path: Path, length: float, gop: float, height: int, rate: int) -> int:
    """Film a textured plain that moves past, with some noise; return the number of frames."""
    width, num_frames, random = height * 16 // 18 * 2, round(length * rate), np.random.default_rng(0)
    coarse = random.integers(40, 200, (height // 4, width // 4), dtype=np.uint8)
    ground = np.tile(coarse.repeat(8, axis=0).repeat(8, axis=1), (2, 2))  # (4 height, 4 width)
    noise = random.integers(0, 12, (height + 64, width + 64), dtype=np.uint8)
    key = str(max(1, round(gop * rate)))
    options = {"preset": "veryfast", "crf": "20", "g": key, "keyint_min": key, "sc_threshold": "0"}
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=rate, options=options)
        stream.thread_type = "FRAME"  # SLICE, PyAV's default, cuts frames into slices
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            down, right = number * 3 % (2 * height), number * 5 % (2 * width)
            grain = noise[number * 29 % 64 :][:height, number * 17 % 64 :][:, :width]
            frame = av.VideoFrame(width, height, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            fill(frame.planes[0], ground[down : down + height, right : right + width] + grain)
            for plane, colour in zip(frame.planes[1:], (number * 2, 255 - number), strict=True):
                fill(plane, np.full((plane.height, plane.width), colour % 256, np.uint8))
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return num_frames


def fill(plane: av.video.plane.VideoPlane, values: np.ndarray) -> None:
    """Copy values (h, w) into a plane, whose lines may be longer than the picture's."""
    lines = np.zeros((plane.height, plane.line_size), np.uint8)
    lines[:, : plane.width] = values
    plane.update(lines.tobytes())


COLUMNS = {
    "clip": "{clip_s:g} s",
    "frames": "{clip_frames}",
    "MB": "{clip_mb:.1f}",
    "plain": "{plain_s:.3f} s",
    "torchcodec": "{torchcodec_s}",
    "ours": "{ours_s:.3f} s",
    "to plain (spread)": "{ratio:.2f}x ({low:.2f} to {high:.2f})",
    "to torchcodec (spread)": "{torchcodec_ratio}",
    "differs from plain": "{difference}",
    "differs from torchcodec": "{torchcodec_difference}",
}
HEADING = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"  # as the README shows it


def describe(figures: Figures) -> str:
    """Return a line of the table."""
    low, high = figures["spread"]["ratio"]
    shown = {"torchcodec_s": "-", "torchcodec_ratio": "-", "torchcodec_difference": "-", **figures}
    if figures["torchcodec"]:
        shown["torchcodec_s"] = f"{figures['torchcodec_s']:.3f} s"
        bounds = figures["spread"]["torchcodec_ratio"]
        shown["torchcodec_ratio"] = "{:.2f}x ({:.2f} to {:.2f})".format(figures["torchcodec_ratio"], *bounds)
    return f"| {' | '.join(COLUMNS.values())} |".format(**shown, low=low, high=high)
