"""AVIs whose empty chunks repeat the frame before: sound, and shown as players show them; cut ones stay refused."""

import struct
from pathlib import Path

import numpy as np
import pytest

from data.decoding.avi import count_frames
from data.decoding.video import check_clip, read_frames
from data.errors import UserError
from data.media.frame_sampling import FrameSampling, frame_indices
from tests.media_samples import draw_frames, write_clip, write_sparse

NUM_SLOTS, NUM_CODED, RATE = 444, 68, 12
WHOLE = [(None, None)]


def draw_places(first: int = 0, last: int = NUM_SLOTS - 1) -> list[int]:
    """Return the chunks of the coded frames, at irregular distances."""
    between = np.random.default_rng(3).choice(np.arange(first + 1, last), NUM_CODED - 2, replace=False)
    return [first, *sorted(between.tolist()), last]


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    return draw_frames(NUM_CODED, 32, 48)


@pytest.fixture(scope="module")
def lossless(tmp_path_factory, drawn) -> Path:
    path = tmp_path_factory.mktemp("sparse") / "a.avi"
    return write_sparse(path, drawn, draw_places(), "ffv1")


def as_played(drawn: np.ndarray, places: list[int]) -> np.ndarray:
    """Return what a player shows, slot by slot: a frame stays until the next one comes."""
    played, current = [], None
    for slot in range(NUM_SLOTS):
        current = drawn[places.index(slot)] if slot in places else current
        played.append(current)
    return np.stack(played)


def empty_last_chunk(path: Path, target: Path) -> Path:
    """Write the same with an empty chunk in place of the last coded frame, and what was in it as junk."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"00dc", 0, data.rindex(b"idx1"))
    (size,) = struct.unpack_from("<I", data, at + 4)
    data[at + 4 : at + 16] = struct.pack("<I4sI", 0, b"JUNK", size + size % 2 - 8)
    struct.pack_into("<I", data, len(data) - 4, 0)  # the index: its last entry ends with the size
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("codec", ["mjpeg", "cinepak", "mpeg4", "ffv1"])
def test_a_sparse_clip_is_sound(codec, drawn, tmp_path):
    path = write_sparse(tmp_path / "a.avi", drawn, draw_places(), codec)
    assert count_frames(path, 0) == NUM_SLOTS
    assert check_clip(path, WHOLE) == [None]
    assert read_frames(path, 8).shape == (8, 32, 48, 3)


def test_frames_are_spread_over_the_clip_as_it_is_played(lossless, drawn):
    played = as_played(drawn, draw_places())
    np.testing.assert_array_equal(read_frames(lossless, 8), played[frame_indices(NUM_SLOTS, 8)])
    np.testing.assert_array_equal(read_frames(lossless, NUM_SLOTS), played)
    part = read_frames(lossless, 6, start=10.0, end=20.0)
    np.testing.assert_array_equal(part, played[120 + np.array(frame_indices(120, 6))])
    by_rate = read_frames(lossless, 4, sampling=FrameSampling("fps", 1.0))
    middle = NUM_SLOTS / RATE / 2 - 2 + np.arange(4)
    np.testing.assert_array_equal(by_rate, played[np.floor(middle * RATE + 1e-6).astype(int)])


def test_seconds_are_those_of_the_player(lossless):
    spans = [(36.5, None), (99.0, None)]
    sound, late = check_clip(lossless, spans)
    assert sound is None and "start 99 lies behind its last frame, at 36.917 seconds" in late


def test_a_clip_may_end_with_repeated_frames(lossless, drawn, tmp_path):
    path = empty_last_chunk(lossless, tmp_path / "still.avi")
    places = draw_places()
    assert places[-2] < NUM_SLOTS - 1 and count_frames(path, 0) == NUM_SLOTS
    assert check_clip(path, WHOLE) == [None]
    played = as_played(drawn, places[:-1])
    np.testing.assert_array_equal(read_frames(path, NUM_SLOTS), played)


def test_a_clip_that_stands_still_for_its_second_half_is_not_cut(drawn, tmp_path):
    places = [*range(NUM_CODED - 1), NUM_SLOTS - 1]
    path = empty_last_chunk(write_sparse(tmp_path / "a.avi", drawn, places, "ffv1"), tmp_path / "still.avi")
    assert check_clip(path, WHOLE) == [None]
    np.testing.assert_array_equal(read_frames(path, 4), drawn[[0, 66, 66, 66]])


@pytest.mark.parametrize("size", [bytes(4), b"\xff" * 4], ids=["zero", "unknown"])
def test_a_sparse_clip_that_was_cut_is_refused(size, lossless, tmp_path):
    """An interrupted recorder leaves a file whose header does not say how long it is."""
    data = lossless.read_bytes()
    middle = data.index(b"00dc", len(data) // 2)
    (tmp_path / "cut.avi").write_bytes(data[:middle])
    with pytest.raises(UserError, match="truncated"):
        check_clip(tmp_path / "cut.avi", WHOLE)
    (tmp_path / "cut.avi").write_bytes(data[:4] + size + data[8:middle])
    with pytest.raises(UserError, match=r"cut.avi' announces 444 frames and has 2\d\d; copy or download it again"):
        check_clip(tmp_path / "cut.avi", WHOLE)


def test_every_frame_of_an_ordinary_clip_is_counted_once(tmp_path):
    path = write_clip(tmp_path / "a.avi", draw_frames(30), "mpeg4", bf="2")
    assert count_frames(path, 0) == 30 and count_frames(path, 1) == 0
