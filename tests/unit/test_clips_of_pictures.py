"""Folders and lists of pictures are clips, of which the chosen ones alone are opened."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from data.decoding.decode import decode
from data.decoding.probe import File, probe
from data.errors import UserError
from data.media.frame_sampling import FrameSampling, frame_indices
from data.media.reference import Media, Pictures, identity, media_at
from data.media.storage import check_media
from data.sources.conversation import read_conversations
from data.sources.source import Source
from tests.source_samples import CLIP, failure


@pytest.fixture
def frames(tmp_path) -> Path:
    """f0.png to f11.png, each of one grey: ten times its number."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (12, 10), (10 * number,) * 3).save(folder / f"f{number}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def shown(item: Media, num_frames: int = 8) -> list[int]:
    pixels = decode(item, num_frames)
    assert pixels.shape == (num_frames, 10, 12, 3)
    return (pixels[:, 0, 0, 0] // 10).tolist()


def test_a_folder_and_a_list_of_frames_are_clips(frames, tmp_path):
    names = [f"frames/f{number}.png" for number in (11, 3, 5)]
    records = [
        {**CLIP, "video": "frames"},
        {**CLIP, "video": [names]},
        {**CLIP, "video": {"frames": names, "fps": 2}, "start": 0.5, "end": 1.0},
        {
            "messages": [
                {"role": "user", "content": [{"type": "video", "video": names}]},
                {"role": "assistant", "content": "a"},
            ]
        },
        {**CLIP, "video": {"path": "frames", "fps": 4.0}, "start": 1.0, "end": 2.0},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records))
    source = Source(tmp_path / "a.json", media_root=tmp_path)
    items = [conversation.media[0] for conversation in read_conversations(source)]
    assert [shown(item) for item in items] == [
        frame_indices(12, 8),
        [11, 11, 11, 3, 3, 3, 5, 5],
        [3] * 8,
        [11, 11, 11, 3, 3, 3, 5, 5],
        [4, 4, 5, 5, 6, 6, 7, 7],
    ]
    by_rate = Media("video", str(frames), sampling=FrameSampling("fps", 2.0), place=items[4].place)
    assert shown(by_rate, 4) == [2, 4, 6, 8]
    for item in items:
        check_media(item)
        assert probe(File("video", item.path, ((item.start, item.end),), item.place)) == [None]
        assert len({identity(each) for each in (item, items[0])}) == (1 if item == items[0] else 2)


def test_only_chosen_frames_are_opened(frames):
    for number in set(range(12)) - {0, 6}:
        (frames / f"f{number}.png").write_bytes(b"")
    item = media_at("video", str(frames))
    assert shown(item, 2) == [0, 6]
    assert "f1.png' is empty" in probe(File("video", str(frames), place=Pictures()))[0]


def test_wrong_clips_of_frames_are_named(frames, tmp_path):
    item = replace(media_at("video", str(frames)), start=1.0)
    with pytest.raises(UserError, match="frames': seconds of a clip of pictures need its fps"):
        decode(item, 8)
    assert "need its fps" in probe(File("video", str(frames), ((1.0, None),), Pictures()))[0]
    Image.new("RGB", (12, 11)).save(frames / "f3.png")
    with pytest.raises(UserError, match="f3.png' of 12 x 11; resize them") as error:
        decode(media_at("video", str(frames)), 8)
    assert probe(File("video", str(frames), place=Pictures())) == [str(error.value)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty' is not a file, and no folder of frames"):
        check_media(media_at("video", str(tmp_path / "empty")))


def test_frames_may_not_leave_the_media_root(frames, tmp_path):
    for video in ([["a.png", "../secret.png"]], "../frames", {"path": "../frames", "fps": 2}):
        (tmp_path / "a.json").write_text(json.dumps([{**CLIP, "video": video}]))
        message = failure(tmp_path / "a.json", tmp_path / "root")
        assert re.search(r"a\.json record 1: (clip|picture) \S+ is outside of media_root", message)
