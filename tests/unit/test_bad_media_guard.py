"""A run remembers bad media and leaves them out of rows."""

import json

import pytest
from accelerate import PartialState

from data.errors import UserError
from data.media.bad_media import BadMedia, media_key
from data.media.frame_sampling import FrameSampling
from data.media.imprint import imprint
from data.media.reference import Address, Downloads, Media, Part, Pictures
from train.run_folder.bad_media import BadMediaGuard, noted_imprints


@pytest.fixture
def files(tmp_path):
    PartialState(cpu=True)
    paths = [tmp_path / f"clip{number}.mp4" for number in range(4)]
    for path in paths:
        path.write_bytes(b"\0" * 9)
    return paths


def bad(path, records=("train.json record 1", "train.json record 2"), **part) -> BadMedia:
    return BadMedia(Media("video", str(path), **part), records, f"'{path}' is damaged")


def test_it_is_left_out_from_its_step_on_in_its_part_of_the_data(files, tmp_path, capsys):
    guard = BadMediaGuard(tmp_path, num_files=100)
    guard.agree([bad(files[0]), bad(files[0], start=1.0)], "train", epoch=2, step=7)
    guard.agree([bad(files[0])], "train", epoch=2, step=9)
    whole, part = media_key(Media("video", str(files[0]))), media_key(Media("video", str(files[0]), start=1.0))
    assert whole != part and whole == media_key(
        Media("video", str(files[0]), sampling=FrameSampling("jitter", None, (3,)))
    )
    assert guard.left_out("train", 6) == guard.left_out("eval", 9) == set()
    assert guard.left_out("train", 7) == {whole, part}
    assert guard.num_left_out("train", 7) == 1
    assert capsys.readouterr().out == f"left out: train.json record 1 and 1 more: '{files[0]}' is damaged\n"
    lines = [json.loads(line) for line in (tmp_path / "bad_media.jsonl").read_text().splitlines()]
    assert [(line["file"], line["epoch"], line["step"]) for line in lines] == [(str(files[0]), 2, 7)] * 2
    assert lines[0]["records"] == ["train.json record 1", "train.json record 2"] and "is damaged" in lines[0]["reason"]


def test_it_is_read_back_unless_its_file_has_changed(files, tmp_path):
    guard = BadMediaGuard(tmp_path, max_share=1, num_files=4)
    gone = tmp_path / "gone.mp4"
    before = imprint(Media("video", str(files[0])))
    guard.agree([bad(path) for path in (*files[:3], gone)], "train", epoch=0, step=1)
    noted = (tmp_path / "bad_media.jsonl").read_text()
    with open(tmp_path / "bad_media.jsonl", "a") as file:
        file.write('{"file": "half a li')
    files[1].write_bytes(b"\0" * 10)
    files[2].unlink()
    again = BadMediaGuard(tmp_path, max_share=1, num_files=4)
    assert again.left_out("train", 1) == {media_key(Media("video", str(path))) for path in (files[0], gone)}
    assert (tmp_path / "bad_media.jsonl").read_text() == noted
    again.agree([bad(files[1])], "train", epoch=0, step=2)
    assert media_key(Media("video", str(files[1]))) in BadMediaGuard(tmp_path).left_out("train", 2)
    # A run may be continued when its bad files were mended: to the fingerprint they are as they were.
    assert noted_imprints(tmp_path) == {str(path): before for path in files[:3]}


def test_keys_in_addresses_are_not_written(files, tmp_path):
    downloads = Downloads(str(tmp_path))
    address = Address("https://example.com/a.mp4?key=SECRET", downloads)
    clips = [Media("video", "a.mp4", place=place) for place in (address, Part(address, 5, 9))]
    clips.append(Media("video", "frames", place=Pictures((Media("image", "a.mp4", place=address),))))
    guard = BadMediaGuard(tmp_path, max_share=1, num_files=4)
    guard.agree([BadMedia(clip, ("record 1",), "'a.mp4' is damaged") for clip in clips], "train", epoch=0, step=1)
    assert "SECRET" not in (tmp_path / "bad_media.jsonl").read_text()
    assert BadMediaGuard(tmp_path).left_out("train", 1) == set(map(media_key, clips)) and len(clips) == 3


def test_the_share_is_one_of_files_and_counts_those_of_earlier_runs(files, tmp_path):
    guard = BadMediaGuard(tmp_path, max_share=0.02, num_files=100)
    guard.agree([bad(files[0]), bad(files[0], end=1.0), bad(files[1])], "train", epoch=0, step=3)
    guard.agree([bad(files[2])], "eval", epoch=0, step=3)
    with pytest.raises(UserError, match="step 5: 3 of 100 media files cannot .* 0.02.*clip3.mp4'"):
        guard.agree([bad(files[3])], "train", epoch=0, step=5)
    again = BadMediaGuard(tmp_path, max_share=0.02, num_files=100)
    again.agree([], "train", epoch=0, step=4)
    with pytest.raises(UserError, match="step 5: 3 of 100"):
        again.agree([], "train", epoch=0, step=5)


def test_fail_names_the_first_and_remembers_nothing(files, tmp_path):
    guard = BadMediaGuard(tmp_path, "fail", num_files=100)
    with pytest.raises(UserError, match=f"^train.json record 1: '{files[0]}' is damaged; mend it"):
        guard.agree([bad(files[0])], "eval", epoch=0, step=3)
    assert not (tmp_path / "bad_media.jsonl").exists()
