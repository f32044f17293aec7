"""The same conversations and media from tar shards as from files: equal messages, bit-identical pixels."""

import os
import tarfile
from pathlib import Path

import pytest
import torch

from data.batches.pixels import PixelLoader
from data.cache.frame_cache import FrameCache
from data.decoding.decode import decode
from data.decoding.probe import File, probe
from data.errors import UserError
from data.inspection.check import read_contents
from data.inspection.fill import Filling
from data.media.frame_sampling import UNIFORM
from data.media.reference import Media, Segment, identity, size
from data.media.storage import local_file
from data.sources.conversation import read_conversations
from data.sources.source import Source
from tests.source_samples import CLIP, check_same, failure, write_tar
from tests.tiny_data import MIXED_RECORDS, turns


def test_one_shard_with_all_records_is_the_files(media, expected, tmp_path):
    shard = write_tar(tmp_path / "all.tar", {**media, "train.json": MIXED_RECORDS})
    check_same(read_conversations(Source(shard)), expected)
    conversations = list(read_conversations(Source(shard)))
    assert conversations[1].name == f"{shard} train.json record 2"
    # Questions about one clip still share it.
    assert conversations[0].media == conversations[1].media and hash(conversations[0].media)
    assert conversations[0].media[0].path == f"{shard}/clip0.mp4"


def test_shards_of_samples_are_the_files(media, expected, tmp_path):
    """Every record a sample of its own, its media named by extension; three shards under one pattern."""
    for shard in range(3):
        members = {}
        for number, record in list(enumerate(MIXED_RECORDS))[6 * shard : 6 * shard + 6]:
            key, own = f"s/{number:04d}", {}
            for kind in ("video", "image"):
                names = record.get(kind, [])
                for place, name in enumerate([names] if isinstance(names, str) else names):
                    own[f"{key}.{place}.{name.rpartition('.')[2]}"] = media[name]
            turns_alone = {key: value for key, value in record.items() if key not in ("video", "image")}
            members |= own | {f"{key}.json": turns_alone["conversations"] if number % 2 else turns_alone}
        write_tar(tmp_path / f"data-{shard:03d}.tar", members)
    for pattern in ("data-{000..002}.tar", "data-*.tar", "data-{000,001,002}.tar"):
        check_same(read_conversations(Source(tmp_path / pattern)), expected)


def test_a_shard_is_read_lazily_and_without_its_media(media, tmp_path, monkeypatch):
    for number in range(2):
        write_tar(tmp_path / f"data-{number}.tar", {**media, "a.json": [CLIP, CLIP]})
    rows = read_conversations(Source(tmp_path / "data-{0,1,2}.tar"))
    assert [next(rows).name for _ in range(4)][2] == f"{tmp_path}/data-1.tar a.json record 1"
    with pytest.raises(UserError, match="data-2.tar: cannot read the data file: No such file"):
        next(rows)


def test_names_in_a_shard_are_names_only(media, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(media["clip1.mp4"])
    members = {"../secret.mp4": media["clip0.mp4"], "/etc/x.mp4": media["clip0.mp4"]}
    records = [{**CLIP, "video": name} for name in members]
    shard = write_tar(tmp_path / "bad.tar", {**members, "a.json": records})
    for conversation in read_conversations(Source(shard, media_root=tmp_path / "root")):
        assert isinstance(conversation.media[0].place, Segment)
        with local_file(conversation.media[0]) as path:
            assert Path(path).read_bytes() == media["clip0.mp4"]
    plain = write_tar(tmp_path / "plain.tar", {"a.json": [{**CLIP, "video": "../secret.mp4"}]})
    assert f"{plain} a.json record 1, message 1: no member of its shard is named" in failure(plain)
    assert f"{plain} a.json record 1: clip" in failure(plain, tmp_path / "root")


def test_what_is_wrong_with_a_shard_is_named(media, tmp_path):
    good = write_tar(tmp_path / "good.tar", {**media, "a.json": [CLIP]}).read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(good[: len(good) // 2])
    assert failure(cut).startswith(f"{cut}: is truncated or not a tar file")
    with tarfile.open(tmp_path / "good.tar") as tar:
        ends = [member.offset for member in tar.getmembers()[1:]]
    for end in (ends[1], ends[1] - 1, ends[1] + 1, ends[-1] + 512):
        cut.write_bytes(good[:end])
        assert failure(cut).startswith(f"{cut}: is truncated or not a tar file"), end
    damaged = tmp_path / "damaged.tar"
    with tarfile.open(tmp_path / "good.tar") as tar:
        at = tar.getmembers()[2].offset
    damaged.write_bytes(good[:at] + b"\xff" * 512 + good[at + 512 :])
    assert f"a damaged header at byte {at}" in failure(damaged)
    for suffix, mode in ((".tar.gz", "w:gz"), (".tar", "w:xz")):
        with tarfile.open(tmp_path / f"z{suffix}", mode) as tar:
            tar.addfile(tarfile.TarInfo("a"))
        assert "is compressed, so its members cannot be read one by one" in failure(tmp_path / f"z{suffix}")
    broken = write_tar(tmp_path / "broken.tar", {"a.json": b"{", "b.json": [3], **media, "c.json": [CLIP]})
    problems = []
    (sound,) = read_conversations(Source(broken), problems.append)
    assert sound.name == f"{broken} c.json record 1"
    assert [problem.record for problem in problems] == [f"{broken} a.json", f"{broken} b.json record 1"]
    assert "no file fits" in failure(str(tmp_path / "none-*.tar"))


def test_a_bad_member_keeps_its_name(tmp_path, media):
    shard = write_tar(
        tmp_path / "a.tar", {"x.mp4": media["clip0.mp4"][:-2000], "x.json": turns("<video>\nWhat?", "red")}
    )
    (conversation,) = read_conversations(Source(shard))
    item = conversation.media[0]
    with pytest.raises(UserError) as error:
        decode(item, 8)
    assert str(error.value).startswith(f"'{shard}/x.mp4' is truncated")
    late = Media("video", item.path, start=60, place=item.place)
    assert probe(File("video", item.path, place=item.place)) == [str(error.value)]
    whole = Segment(str(tmp_path / "whole.mp4"), 0, len(media["clip0.mp4"]))
    (tmp_path / "whole.mp4").write_bytes(media["clip0.mp4"])
    (reason,) = probe(File("video", item.path, ((late.start, None),), whole))
    assert reason.startswith(f"'{shard}/x.mp4': start 60 lies behind its last frame")
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"'{shard}/x.mp4' cannot be read: {shard} ends before it"):
        decode(item, 8)


def test_a_copy_is_gone_afterwards(tmp_path, media):
    shard = write_tar(tmp_path / "a.tar", {"x.mp4": media["clip0.mp4"], "x.json": turns("<video>\nWhat?", "red")})
    (conversation,) = read_conversations(Source(shard))
    item = conversation.media[0]
    with local_file(item) as path:
        copy = os.fspath(path)
        assert copy.endswith(".mp4") and Path(copy).read_bytes() == media["clip0.mp4"]
    assert not os.path.exists(copy)
    before, number = identity(item), size(item)
    assert number == len(media["clip0.mp4"])
    os.utime(shard, (1, 1))
    assert identity(item) != before and size(item) == number
    assert identity(Media("video", "y", place=Segment(str(shard), 0, 5))) != identity(item)


def test_a_cache_holds_the_frames_of_members(media, media_folder, tmp_path, processor):
    shard = write_tar(tmp_path / "a.tar", {**media, "a.json": MIXED_RECORDS})
    items = {item for conversation in read_conversations(Source(shard)) for item in conversation.media}
    files = [File(item.kind, item.path, place=item.place) for item in items]
    cached = PixelLoader(processor, 8, FrameCache(tmp_path / "cache", processor, 8))
    filling = Filling(cached, (UNIFORM,), probes=True)
    assert filling.num_kept(files) == (0, 7)
    assert [reason for file in files for reason in filling(file)[0]] == [None] * 7
    assert filling.num_kept(files) == (7, 7)
    for item in items:
        plain = Media(item.kind, str(media_folder / os.path.basename(item.path)))
        assert torch.equal(cached.fitted(item), PixelLoader(processor, 8).fitted(plain))


def test_the_check_names_rows_of_shards(media, tmp_path, processor, visual_tokens):
    records = [CLIP, {**CLIP, "video": "none.mp4"}, CLIP, {"conversations": turns("Hello </s>", "a")}]
    shard = write_tar(tmp_path / "a.tar", {**media, "a.json": records})
    contents = read_contents([Source(shard)], processor.tokenizer, visual_tokens, 1000)
    assert [(problem.row, problem.file) for problem in contents.problems] == [
        (f"{shard} a.json record 2", str(shard)),
        (f"{shard} a.json record 4", str(shard)),
    ]
    assert contents.problems[0].reason.startswith("message 1: no member of its shard is named 'none.mp4'")
    assert contents.duplicates == [(f"{shard} a.json record 3", f"{shard} a.json record 1")]
