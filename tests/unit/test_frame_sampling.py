"""Frames are taken by the documented rule, in seconds of a clip, at a constant rate, and with jitter."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data.decoding.video import read_frames
from data.errors import UserError
from data.media.frame_sampling import UNIFORM, FrameSampling, choose_frames, clip_seed, frame_indices, frames_between
from data.packing.dataset import single_sample_rows
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from tests.media_samples import draw_frames, write_clip
from tests.tiny_data import turns

TIMES = st.lists(st.integers(1, 500), min_size=0, max_size=80).map(lambda steps: np.cumsum([0, *steps]) / 1000)


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (16, [0, 2, 4, 6, 8, 10, 12, 14]),
        (100, [0, 12, 25, 37, 50, 62, 75, 87]),
        (9, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, [0, 0, 0, 1, 1, 1, 2, 2]),
        (1, [0] * 8),
    ],
)
def test_frame_indices(total, expected):
    assert frame_indices(total, 8) == expected


@given(st.integers(1, 10**7))
def test_eight_frame_indices_are_those_of_the_documentation(total):
    assert frame_indices(total, 8) == np.arange(0, total, total / 8).astype(int).tolist()


@given(st.integers(1, 10**7), st.integers(1, 300))
def test_frame_indices_are_uniform(total, num_frames):
    indices = frame_indices(total, num_frames)
    assert len(indices) == num_frames and indices[0] == 0 and indices[-1] < total
    steps = {later - earlier for earlier, later in zip(indices, indices[1:] + [total], strict=True)}
    assert steps <= {total // num_frames, -(-total // num_frames)}


def test_seconds_of_a_clip_by_hand():
    times = np.arange(30) / 10  # a frame each tenth of a second, the last one at 2.9
    assert frames_between(times, None, None) == (0, 30)
    assert frames_between(times, 0.5, 1.0) == (5, 10)
    assert frames_between(times, 0.55, None) == (6, 30)
    assert frames_between(times, None, 99) == (0, 30)
    assert frames_between(times, 0.51, 0.59) == (5, 6)  # shown then is the one before
    assert frames_between(times, 2.95, 3.5) == (29, 30)
    with pytest.raises(ValueError, match=r"start 3.1 lies behind its last frame, at 2.900 seconds"):
        frames_between(times, 3.1, None)


@given(TIMES, st.integers(1, 20), st.floats(0, 1), st.floats(0, 1))
def test_between_two_seconds_is_what_a_loop_finds(times, num_frames, low, high):
    start, end = sorted((low * times[-1], high * times[-1]))
    inside = [i for i, time in enumerate(times) if start <= time < end]
    inside = inside or [max(i for i, time in enumerate(times) if time < start or i == 0)]
    expected = [inside[i * len(inside) // num_frames] for i in range(num_frames)]
    assert choose_frames(times, num_frames, start=start, end=end) == expected


@given(TIMES, st.integers(1, 20), st.integers(0, 2**63))
def test_jitter_takes_a_frame_of_each_segment(times, num_frames, seed):
    total = len(times)
    chosen = choose_frames(times, num_frames, sampling=FrameSampling("jitter", seed=(seed, 0)))
    assert chosen == choose_frames(times, num_frames, sampling=FrameSampling("jitter", seed=(seed, 0)))
    for i, index in enumerate(chosen):
        first, last = i * total // num_frames, (i + 1) * total // num_frames
        assert index in range(first, max(last, first + 1))


def test_jitter_reaches_every_frame_and_changes_with_epoch_clip_and_seed():
    times = np.arange(24) / 12
    seen = [
        choose_frames(times, 8, sampling=FrameSampling("jitter", seed=clip_seed(seed, epoch, path, None, None)))
        for seed in range(5)
        for epoch in range(5)
        for path in ("a.mp4", "b.mp4", "\udcff.mp4")
    ]
    assert {index for chosen in seen for index in chosen} == set(range(24))
    assert len({tuple(chosen) for chosen in seen}) > 70
    assert clip_seed(0, 0, "a", 1.0, None) != clip_seed(0, 0, "a", None, 1.0)


def test_a_rate_takes_the_middle_of_the_clip():
    times = np.arange(100) / 10
    assert choose_frames(times, 4, sampling=FrameSampling("fps", 2)) == [40, 45, 50, 55]
    assert choose_frames(times, 4, start=5, sampling=FrameSampling("fps", 1)) == [55, 65, 75, 85]
    assert choose_frames(times, 10, sampling=FrameSampling("fps", 1)) == list(range(0, 100, 10))


def test_a_clip_too_short_for_the_rate_is_uniform():
    times = np.arange(30) / 10
    assert choose_frames(times, 8, sampling=FrameSampling("fps", 1)) == frame_indices(30, 8)
    assert choose_frames(times[:1], 8, sampling=FrameSampling("fps", 1)) == [0] * 8


@given(TIMES, st.integers(1, 12), st.floats(0.1, 60))
def test_a_rate_keeps_its_distance(times, num_frames, rate):
    chosen = choose_frames(times, num_frames, sampling=FrameSampling("fps", rate))
    assert len(chosen) == num_frames and chosen == sorted(chosen) and 0 <= chosen[0] and chosen[-1] < len(times)
    if chosen != frame_indices(len(times), num_frames):
        longest = max(np.diff(times)) + 1e-5  # a frame is shown at most so long before the moment it is taken for
        assert all(abs(gap - 1 / rate) <= longest for gap in np.diff(times[chosen]))


def test_seconds_are_those_of_the_clip(tmp_path):
    drawn = draw_frames(36)
    path = write_clip(tmp_path / "a.mkv", drawn, "ffv1", "bgr0", container={"output_ts_offset": "50"})
    np.testing.assert_array_equal(read_frames(path, 6, start=1.0, end=2.0), drawn[12:24:2])  # 12 frames a second
    chosen = choose_frames(np.arange(36) / 12, 4, sampling=FrameSampling("jitter", seed=(3,)))
    np.testing.assert_array_equal(read_frames(path, 4, sampling=FrameSampling("jitter", seed=(3,))), drawn[chosen])
    with pytest.raises(UserError, match=r"a.mkv': start 9 lies behind its last frame, at 2.917 seconds; correct its"):
        read_frames(path, 8, start=9.0)


def test_rows_choose_frames_by_epoch_in_workers_too(media_folder, processor, visual_tokens, tmp_path):
    records = [{"video": f"clip{n % 2}.mp4", "conversations": turns("<video>\nHow?", a)} for n, a in enumerate("abcd")]
    (tmp_path / "a.json").write_text(json.dumps(records))
    source = Source(tmp_path / "a.json", media_root=media_folder)
    samples = load_corpus([source], processor.tokenizer, visual_tokens, 512).samples
    rows = single_sample_rows(samples, visual_tokens, seed=3)

    def seeds(epoch: int, num_workers: int) -> dict[str, set]:
        loader = DataLoader(rows, sampler=rows.rows(epoch), batch_size=None, num_workers=num_workers)
        found = {}
        for ((_, (sample,)),) in loader:
            found.setdefault(sample.media[0].path, set()).add(sample.media[0].sampling)
        return found

    assert [*seeds(0, 0).values()] == [{UNIFORM}, {UNIFORM}]
    rows.sampling = FrameSampling("jitter")
    first, second = seeds(0, 1), seeds(1, 1)
    assert first == seeds(0, 0) and all(len(choices) == 1 for choices in first.values())
    assert len(set.union(*first.values(), *second.values())) == 4  # two clips in two epochs
