"""The choice of a clip's frames: always the same number of them, whatever the clip's length."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

Way = Literal["uniform", "fps", "jitter"]
# The version of each rule, which models keep that were trained with it: a change of what it chooses counts it up.
RULES: dict[Way, int] = {"uniform": 1, "fps": 1, "jitter": 1}


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """A way to choose frames.

    uniform: those of `frame_indices`. jitter: a random frame of each of the segments that begin there, a function of
    `seed` alone. fps: frames that are 1 / frames_per_second seconds apart, from the middle; uniform where the clip is
    too short for that.
    """

    way: Way = "uniform"
    frames_per_second: float | None = None
    seed: tuple[int, ...] = ()


UNIFORM = FrameSampling()
ROUNDING_SECONDS = 1e-6  # a frame's time may be rounded up by so much: it is shown at that moment all the same


def frame_indices(total: int, num_frames: int) -> list[int]:
    """Spread `num_frames` indices over `total` frames.

    This is `np.arange(0, total, total / num_frames).astype(int)` of Video-LLaVA's documentation, in integers.

    A clip of fewer frames than asked for repeats frames.
    """
    return [i * total // num_frames for i in range(num_frames)]


def frames_between(times: np.ndarray, start: float | None, end: float | None) -> tuple[int, int]:
    """Find the half-open range of frames with start <= time < end, or the one frame shown at `start` if there is none.

    times: (total,), ascending seconds from the first frame. Raises ValueError where the clip ends before `start`.
    """
    first = 0 if start is None else int(np.searchsorted(times, start))
    last = len(times) if end is None else int(np.searchsorted(times, end))
    if first >= len(times) and start is not None and start > times[-1] + _frame_duration(times):
        raise ValueError(f"start {start:g} lies behind its last frame, at {times[-1]:.3f} seconds")
    return (first, last) if first < last else (max(first - 1, 0), max(first, 1))


def choose_frames(
    times: np.ndarray,
    num_frames: int,
    *,
    start: float | None = None,
    end: float | None = None,
    sampling: FrameSampling = UNIFORM,
) -> list[int]:
    """Choose `num_frames` ascending indices into `times`, all between `start` and `end` (see `frames_between`)."""
    first, last = frames_between(times, start, end)
    edges = frame_indices(last - first, num_frames)
    if sampling.way == "jitter":
        random = np.random.default_rng(sampling.seed)
        ends = [*edges[1:], last - first]
        edges = [int(random.integers(edge, max(later, edge + 1))) for edge, later in zip(edges, ends, strict=True)]
    elif sampling.way == "fps" and sampling.frames_per_second is not None:
        wanted = _evenly_timed(times[first:last], num_frames, sampling.frames_per_second)
        edges = edges if wanted is None else wanted
    return [first + index for index in edges]


def clip_seed(seed: int, epoch: int, path: str, start: float | None, end: float | None) -> tuple[int, ...]:
    """Seed one clip's random numbers in one epoch: others for each, the same again in a run that continues."""
    name = hashlib.sha256(repr((path, start, end)).encode("utf-8", "surrogateescape")).digest()
    return seed, epoch, int.from_bytes(name[:8])


def _evenly_timed(times: np.ndarray, num_frames: int, frames_per_second: float) -> list[int] | None:
    """Find the frames shown at such moments; None where the clip is shorter than num_frames / frames_per_second."""
    length, duration = times[-1] + _frame_duration(times) - times[0], num_frames / frames_per_second
    if length < duration:
        return None
    moments = times[0] + (length - duration) / 2 + np.arange(num_frames) / frames_per_second
    shown = np.searchsorted(times, moments + ROUNDING_SECONDS, side="right") - 1
    return shown.tolist()


def _frame_duration(times: np.ndarray) -> float:
    return float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
