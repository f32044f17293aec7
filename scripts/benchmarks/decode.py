"""Eight frames of a clip, read in three ways, on H.264 clips that are made for it.

plain       the sequential reader of Video-LLaVA's documentation: PyAV decodes up to the last wanted frame
torchcodec  torchcodec's decoder, seek_mode="exact"; left out where it cannot be imported
ours        data.video.read_frames

The clips have B-frames and one slice a frame, as cameras and web sites make them. Plain and torchcodec have the threads
that they take by themselves, ours has one.
"""

import argparse
import importlib.util
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
from scripts.benchmarks.measure import machine, seconds

NUM_FRAMES = 8
Reader = Callable[[Path], np.ndarray]  # -> uint8 (8, H, W, 3)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, nargs="*", default=[180, 30, 4], help="of the clips, a case each")
    parser.add_argument("--gop", type=float, default=10, help="seconds from key frame to key frame")
    parser.add_argument("--height", type=int, default=720, help="pixels; clips are 16 : 9")
    parser.add_argument("--rate", type=int, default=30, help="frames a second")
    parser.add_argument("--repetitions", type=int, default=5)


def run(arguments: argparse.Namespace) -> list[dict]:
    """Measure and print clip by clip; returns the rows of `--json`."""
    about = {"machine": machine(), "av": av.__version__, "torchcodec": None}
    readers: dict[str, Reader] = {"plain": read_in_order, "ours": lambda path: read_frames(path, NUM_FRAMES)}
    if importlib.util.find_spec("torchcodec"):
        readers["torchcodec"], about["torchcodec"] = read_with_torchcodec, version("torchcodec")
    print("{machine}, PyAV {av}, torchcodec {torchcodec}\n".format(**about) + HEADING, flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in arguments.seconds:
            path = Path(folder) / "clip.mp4"
            num_frames = make_clip(path, length, arguments.gop, arguments.height, arguments.rate)
            clip = {"clip_s": length, "clip_frames": num_frames, "gop_s": arguments.gop, "height": arguments.height}
            size = path.stat().st_size / 1e6
            rows.append({"case": "decode", **clip, "clip_mb": size, **compare(readers, path, arguments), **about})
            print(describe(rows[-1]), flush=True)
    return rows


def compare(readers: dict[str, Reader], path: Path, arguments: argparse.Namespace) -> dict:
    """All readers in turns, after one round that warms up and compares their frames. Seconds are medians, ratios are to
    ours; `spread` has [min, max]."""
    frames = {name: reader(path) for name, reader in readers.items()}
    times = {f"{name}_s": [] for name in readers}
    for _ in range(arguments.repetitions):
        for name, reader in readers.items():
            times[f"{name}_s"].append(seconds(lambda reader=reader: reader(path)))
    row = {name: median(values) for name, values in times.items()}
    for name, key in {"plain": "ratio", "torchcodec": "torchcodec_ratio"}.items():
        if name in readers:
            times[key] = [theirs / ours for theirs, ours in zip(times[f"{name}_s"], times["ours_s"], strict=True)]
            row[key] = row[f"{name}_s"] / row["ours_s"]
            row[key.replace("ratio", "difference")] = largest_difference(frames["ours"], frames[name])
    return {**row, "spread": {name: [min(values), max(values)] for name, values in times.items()}}


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Of any two bytes; 0 says that all are equal."""
    return int(np.abs(ours.astype(np.int16) - theirs).max())


def read_in_order(path: Path) -> np.ndarray:
    """`read_video_pyav` as the documentation calls it, with the container closed."""
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
    from torchcodec.decoders import VideoDecoder  # an option, which needs FFmpeg's libraries

    decoder = VideoDecoder(str(path), seek_mode="exact", dimension_order="NHWC")
    return decoder.get_frames_at(frame_indices(len(decoder), NUM_FRAMES)).data.numpy()


def make_clip(path: Path, length: float, gop: float, height: int, rate: int) -> int:
    """Film a textured plain that moves past, with some noise; returns the number of frames."""
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
    """Lines of a plane may be longer than the picture."""
    lines = np.zeros((plane.height, plane.line_size), np.uint8)
    lines[:, : plane.width] = values
    plane.update(lines)


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


def describe(row: dict) -> str:
    low, high = row["spread"]["ratio"]
    shown = {"torchcodec_s": "-", "torchcodec_ratio": "-", "torchcodec_difference": "-", **row}
    if row["torchcodec"]:
        shown["torchcodec_s"] = f"{row['torchcodec_s']:.3f} s"
        spread = row["spread"]["torchcodec_ratio"]
        shown["torchcodec_ratio"] = "{:.2f}x ({:.2f} to {:.2f})".format(row["torchcodec_ratio"], *spread)
    return f"| {' | '.join(COLUMNS.values())} |".format(**shown, low=low, high=high)
