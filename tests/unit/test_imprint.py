"""Media that were replaced are other data, however alike their sizes are."""

import json
import os
from array import array
from pathlib import Path

import pytest
from PIL import Image

from data.media.imprint import END_BYTES, imprint
from data.media.reference import Address, Cell, Downloads, Media, Pictures, Segment, media_at
from data.packing.fingerprint import fingerprint_samples
from data.tokens.encoding import Sample
from data.tokens.samples import Samples
from train.run_folder.bad_media import BAD_MEDIA_FILE, imprint_now, noted_imprints
from train.run_folder.provenance import is_same_data

SIZE = 3 * END_BYTES


@pytest.fixture
def clip(tmp_path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def change(path: Path, at: int) -> None:
    """Change one byte, and neither the size nor the time of writing."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def fingerprint(*media: Media) -> str:
    return fingerprint_samples([Samples([Sample(array("i", [1, 2]), ((0, 2),), media, "a record")])], imprint_now)


@pytest.mark.parametrize("at", [0, END_BYTES - 1, SIZE - END_BYTES, SIZE - 1])
def test_a_clip_of_the_same_size_is_another_one(at, clip):
    item = Media("video", str(clip))
    before = fingerprint(item)
    assert is_same_data(before, fingerprint(item))
    change(clip, at)
    assert not is_same_data(before, fingerprint(item))


@pytest.mark.parametrize("at", [600, 601 + 40])
def test_a_member_of_a_shard_is_another_one(at, clip):
    item = Media("video", "x", place=Segment(str(clip), 600, 42))
    before = imprint(item)
    change(clip, 599)
    change(clip, 642)
    assert imprint(item) == before
    change(clip, at)
    assert imprint(item) != before


def test_clips_of_pictures_and_tables_and_addresses(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (4, 4), (number,) * 3).save(folder / f"f{number}.bmp")
    item = media_at("video", str(folder))
    listed = Media("video", "x", place=Pictures(tuple(Media("image", str(folder / f"f{n}.bmp")) for n in range(3))))
    before, table = imprint(item), imprint(Media("image", "x", place=Cell(str(folder / "f0.bmp"), "image", 0)))
    assert imprint(listed) == before
    assert imprint(Media("image", "x", place=Address("http://a/b.png", Downloads("c")))) == ((), "")
    change(folder / "f2.bmp", 60)
    assert imprint(item) != before
    change(folder / "f0.bmp", 60)
    assert imprint(Media("image", "x", place=Cell(str(folder / "f0.bmp"), "image", 0))) != table


def test_what_was_not_noted_or_is_not_known_is_as_it_was(clip):
    item = Media("video", str(clip))
    now = fingerprint(item)
    without_ends = now.rpartition(":")[0]  # as runs noted it before
    assert is_same_data(without_ends, now)
    clip.unlink()
    assert fingerprint(item).endswith(":?:?") and is_same_data(now, fingerprint(item))
    clip.write_bytes(b"short")
    assert not is_same_data(without_ends, fingerprint(item)) and not is_same_data(None, now)


def test_lines_of_earlier_runs_have_no_ends(tmp_path):
    line = {"file": "a.mp4", "size": 9}
    (tmp_path / BAD_MEDIA_FILE).write_text(json.dumps(line) + "\n")
    assert noted_imprints(tmp_path) == {"a.mp4": (9, None)}
    samples = [Sample(array("i", [1]), ((0, 1),), (Media("video", "a.mp4"),), "a record")]
    assert fingerprint_samples([Samples(samples)], lambda item: (9, None)).endswith(":?")
