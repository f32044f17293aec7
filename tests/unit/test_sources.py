"""The same conversations and media from files, shards, tables and rows: equal messages, bit-identical pixels."""

import base64
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from data.check import read_contents
from data.conversation import read_conversations
from data.decoding import decode
from data.errors import UserError
from data.fill import Filling
from data.frame_cache import FrameCache
from data.pixels import PixelLoader
from data.probe import File, probe
from data.reference import Downloads, Media, Segment, identity, size
from data.sampling import UNIFORM, Sampling, frame_indices
from data.sources import Source, expand_braces, find_files
from data.storage import check_media, local_file
from tests.tiny_data import MIXED_RECORDS, turns

CLIP = {"video": "clip0.mp4", "conversations": turns("<video>\nWhat colour?", "red")}


def write_tar(path: Path, members: dict[str, bytes | dict | list]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


@pytest.fixture
def media(media_folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(media_folder.iterdir())}


@pytest.fixture(scope="session")
def expected(media_folder, tmp_path_factory):
    """The mixed records as plain files: messages and pixels."""
    path = tmp_path_factory.mktemp("plain") / "mixed.json"
    path.write_text(json.dumps(MIXED_RECORDS))
    return [
        (conversation.messages, [decode(item, 8) for item in conversation.media])
        for conversation in read_conversations(path, media_folder)
    ]


def check_same(found, expected) -> None:
    conversations = list(found)
    assert [each.messages for each in conversations] == [messages for messages, _ in expected]
    for conversation, (_, pixels) in zip(conversations, expected, strict=True):
        for item, frames in zip(pickle.loads(pickle.dumps(conversation.media)), pixels, strict=True):
            assert np.array_equal(decode(item, 8), frames)


def failure(*arguments) -> str:
    with pytest.raises(UserError) as error:
        list(read_conversations(*arguments))
    assert "\n" not in str(error.value)
    return str(error.value)


# Tar shards


def test_one_shard_with_all_records_is_the_files(media, expected, tmp_path):
    shard = write_tar(tmp_path / "all.tar", {**media, "train.json": MIXED_RECORDS})
    check_same(read_conversations(shard), expected)
    conversations = list(read_conversations(shard))
    assert conversations[1].name == f"{shard} train.json row 2"
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
        check_same(read_conversations(str(tmp_path / pattern)), expected)


def test_a_shard_is_read_lazily_and_without_its_media(media, tmp_path, monkeypatch):
    for number in range(2):
        write_tar(tmp_path / f"data-{number}.tar", {**media, "a.json": [CLIP, CLIP]})
    rows = read_conversations(str(tmp_path / "data-{0,1,2}.tar"))
    assert [next(rows).name for _ in range(4)][2] == f"{tmp_path}/data-1.tar a.json row 1"
    with pytest.raises(UserError, match="data-2.tar: cannot read the data file: No such file"):
        next(rows)


def test_names_in_a_shard_are_names_only(media, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(media["clip1.mp4"])
    members = {"../secret.mp4": media["clip0.mp4"], "/etc/x.mp4": media["clip0.mp4"]}
    records = [{**CLIP, "video": name} for name in members]
    shard = write_tar(tmp_path / "bad.tar", {**members, "a.json": records})
    for conversation in read_conversations(shard, tmp_path / "root"):
        assert isinstance(conversation.media[0].place, Segment)
        with local_file(conversation.media[0]) as path:
            assert Path(path).read_bytes() == media["clip0.mp4"]
    plain = write_tar(tmp_path / "plain.tar", {"a.json": [{**CLIP, "video": "../secret.mp4"}]})
    assert f"{plain} a.json row 1, message 1: no member of its shard is named" in failure(plain)
    assert f"{plain} a.json row 1: clip" in failure(plain, tmp_path / "root")


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
    (sound,) = read_conversations(broken, None, False, problems.append)
    assert sound.name == f"{broken} c.json row 1"
    assert [problem.row for problem in problems] == [f"{broken} a.json", f"{broken} b.json row 1"]
    assert "no file fits" in failure(str(tmp_path / "none-*.tar"))


def test_a_bad_member_keeps_its_name(tmp_path, media):
    shard = write_tar(
        tmp_path / "a.tar", {"x.mp4": media["clip0.mp4"][:-2000], "x.json": turns("<video>\nWhat?", "red")}
    )
    (conversation,) = read_conversations(shard)
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
    (conversation,) = read_conversations(shard)
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


def test_braces_as_the_shell_expands_them():
    assert expand_braces("a{08..10}{x,y}") == ["a08x", "a08y", "a09x", "a09y", "a10x", "a10y"]
    assert expand_braces("plain") == ["plain"]


def test_a_file_of_that_very_name_is_no_pattern(tmp_path):
    path = tmp_path / "train[1].json"
    path.write_text(json.dumps([{"conversations": turns("Hello", "fine")}]))
    assert find_files(Source(str(path))) == ([str(path)], None) and len(list(read_conversations(path))) == 1


# Clips of pictures


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
    items = [conversation.media[0] for conversation in read_conversations(tmp_path / "a.json", tmp_path)]
    assert [shown(item) for item in items] == [
        frame_indices(12, 8),
        [11, 11, 11, 3, 3, 3, 5, 5],
        [3] * 8,
        [11, 11, 11, 3, 3, 3, 5, 5],
        [4, 4, 5, 5, 6, 6, 7, 7],
    ]
    by_rate = Media("video", str(frames), sampling=Sampling("fps", 2.0), place=items[4].place)
    assert shown(by_rate, 4) == [2, 4, 6, 8]
    for item in items:
        check_media(item)
        assert probe(File("video", item.path, ((item.start, item.end),), item.place)) == [None]
        assert len({identity(each) for each in (item, items[0])}) == (1 if item == items[0] else 2)


def test_only_chosen_frames_are_opened(frames):
    for number in set(range(12)) - {0, 6}:
        (frames / f"f{number}.png").write_bytes(b"")
    item = Media("video", str(frames))
    assert shown(item, 2) == [0, 6]
    assert "f1.png' is empty" in probe(File("video", str(frames)))[0]


def test_wrong_clips_of_frames_are_named(frames, tmp_path):
    item = Media("video", str(frames), start=1.0)
    with pytest.raises(UserError, match="frames': seconds of a clip of pictures need its fps"):
        decode(item, 8)
    assert "need its fps" in probe(File("video", str(frames), ((1.0, None),)))[0]
    Image.new("RGB", (12, 11)).save(frames / "f3.png")
    with pytest.raises(UserError, match="f3.png' of 12 x 11; resize them") as error:
        decode(Media("video", str(frames)), 8)
    assert probe(File("video", str(frames))) == [str(error.value)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty' is not a file, and no folder of frames"):
        check_media(Media("video", str(tmp_path / "empty")))


def test_frames_may_not_leave_the_media_root(frames, tmp_path):
    for video in ([["a.png", "../secret.png"]], "../frames", {"path": "../frames", "fps": 2}):
        (tmp_path / "a.json").write_text(json.dumps([{**CLIP, "video": video}]))
        assert "a.json row 1: clip" in (message := failure(tmp_path / "a.json", tmp_path / "root"))
        assert "is outside of media_root" in message


def test_a_cache_holds_the_frames_of_members(media, media_folder, tmp_path, processor):
    shard = write_tar(tmp_path / "a.tar", {**media, "a.json": MIXED_RECORDS})
    items = {item for conversation in read_conversations(shard) for item in conversation.media}
    files = [File(item.kind, item.path, place=item.place) for item in items]
    cached = PixelLoader(processor, 8, FrameCache(tmp_path / "cache", processor, 8))
    filling = Filling(cached, (UNIFORM,), probes=True)
    assert filling.num_kept(files) == (0, 7)
    assert [reason for file in files for reason in filling(file)] == [None] * 7
    assert filling.num_kept(files) == (7, 7)
    for item in items:
        plain = Media(item.kind, str(media_folder / os.path.basename(item.path)))
        assert torch.equal(cached.fitted(item), PixelLoader(processor, 8).fitted(plain))


# Tables


def table_of(media: dict[str, bytes], form: str) -> pa.Table:
    """MIXED_RECORDS with their media inside: a struct for the clip and a list of structs for the pictures, or bare
    bytes of both."""

    def cell(name):
        return media[name] if form == "bare" else {"bytes": media[name], "path": f"/elsewhere/{name}"}

    rows = []
    for number, record in enumerate(MIXED_RECORDS):
        pictures = record.get("image", [])
        row = {
            "id": number,
            "video": cell(record["video"]) if "video" in record else None,
            "images": [cell(name) for name in ([pictures] if isinstance(pictures, str) else pictures)],
            "embedding": b"not wanted",
        }
        if form == "messages":
            roles = {"human": "user", "gpt": "assistant"}
            row["messages"] = [{"role": roles[t["from"]], "content": t["value"]} for t in record["conversations"]]
        else:
            row["conversations"] = record["conversations"]
        rows.append(row)
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize("form", ["conversations", "messages", "bare"])
def test_tables_are_the_files(form, media, expected, tmp_path):
    table = table_of(media, form)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "stream.arrow", "file.arrow"):
        check_same(read_conversations(tmp_path / name), expected)
        first = next(read_conversations(tmp_path / name))
        assert (first.name, first.record["id"]) == (f"{tmp_path / name} row 1", 0)
        assert first.media[0].path == f"{tmp_path / name}/row 1/{'video' if form == 'bare' else 'clip0.mp4'}"


def test_what_datasets_saves_is_the_files(media, expected, tmp_path):
    table_set = datasets.Dataset(table_of(media, "conversations"))
    table_set.save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    check_same(read_conversations(file), expected)
    table_set.to_parquet(tmp_path / "a.parquet")
    check_same(read_conversations(tmp_path / "a.parquet"), expected)


def test_bytes_of_a_table_are_not_read_with_its_rows(media, tmp_path, monkeypatch):
    pq.write_table(table_of(media, "conversations"), tmp_path / "a.parquet")
    read = []
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, n, g, columns, **k: read.extend(columns) or iter_batches(self, n, g, columns, **k),
    )
    assert len(list(read_conversations(tmp_path / "a.parquet"))) == len(MIXED_RECORDS)
    assert "video.path" in read and not any("bytes" in column or column == "embedding" for column in read)


def test_paths_in_a_table_are_paths(media_folder, expected, tmp_path):
    rows = [
        {
            "video": {"bytes": None, "path": record["video"]} if "video" in record else None,
            "image": record.get("image", []) if isinstance(record.get("image", []), list) else [record["image"]],
            "conversations": record["conversations"],
        }
        for record in MIXED_RECORDS
    ]
    table = pa.Table.from_pylist(rows)
    video = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = table.set_column(0, "video", table["video"].cast(video))
    pq.write_table(table, tmp_path / "a.parquet")
    check_same(read_conversations(tmp_path / "a.parquet", media_folder), expected)


def test_what_is_wrong_with_a_table_is_named(media, tmp_path):
    table = table_of(media, "conversations")
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert failure(path).startswith(f"{path}: is damaged or not a parquet file")
    path.write_bytes(content)
    item = next(read_conversations(path)).media[0]
    path.write_bytes(content[:-100])
    with pytest.raises(UserError, match="a.parquet/row 1/clip0.mp4' cannot be read: .*a.parquet: "):
        decode(item, 8)
    (tmp_path / "b.arrow").write_bytes(b"nonsense")
    assert failure(tmp_path / "b.arrow").startswith(f"{tmp_path}/b.arrow: is damaged or not a arrow file")
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(tmp_path / "c.arrow", table.schema, options=options) as writer:
        writer.write_table(table)
    assert "its bytes are compressed: write it without compression" in failure(tmp_path / "c.arrow")
    assert "cannot read the data file: No such file" in failure(tmp_path / "none.parquet")
    pq.write_table(pa.table({"conversations": ["text"]}), path)
    assert failure(path).startswith(f"{path} row 1: needs 'conversations'")


# Bytes in rows


def test_bytes_in_a_row_go_into_a_file_that_they_name(media, tmp_path, media_folder):
    content = base64.b64encode(media["clip0.mp4"]).decode()
    picture = base64.b64encode(media["picture0.png"]).decode()
    parts = [
        {"type": "video", "bytes": content, "path": "x.mp4"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": "What?"},
    ]
    record = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "red"}]}
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(record)] * 2))
    source = Source(str(tmp_path / "a.jsonl"), downloads=Downloads(str(tmp_path / "cache")))
    first, second = read_conversations(source)
    assert first.media == second.media
    written = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.read_bytes() for path in written} == {media["clip0.mp4"], media["picture0.png"]}
    assert {path.suffix for path in written} == {".mp4", ".png"} and len(written) == 2
    for item, name in zip(first.media, ("clip0.mp4", "picture0.png"), strict=True):
        assert np.array_equal(decode(item, 8), decode(Media(item.kind, str(media_folder / name)), 8))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"bytes": "###"}, "row 1, message 1, bytes: not base64"),
        ({"bytes": ""}, "a <video> has no clip"),
        ({"bytes": [1] * 1000}, "message 1, bytes: expected the bytes of a file in base64, got [1, 1"),
        ({"frames": "a.png"}, "message 1, video: expected a path or, for a clip, a list of pictures"),
        ({"frames": ["a.png"], "fps": 0}, "message 1, fps: expected pictures a second, got 0"),
        ({"frames": [3]}, "message 1, frames"),
        ({"url": "file:///etc/passwd"}, "message 1, url: must begin with http:// or https://"),
        ({"url": "http://[/a.mp4"}, "message 1, url: not an address (Invalid IPv6 URL)"),
        ({"url": 3}, "message 1, url: the clip's url must be a text, got 3"),
    ],
)
def test_a_wrong_part_is_named_with_row_and_key(part, message, tmp_path):
    record = {
        "messages": [{"role": "user", "content": [{"type": "video", **part}]}, {"role": "assistant", "content": "a"}]
    }
    (tmp_path / "a.json").write_text(json.dumps([record]))
    found = failure(Source(str(tmp_path / "a.json"), downloads=Downloads(str(tmp_path / "cache"))))
    assert found.startswith(f"{tmp_path}/a.json row 1") and message in found and len(found) < 600


# The check


def test_the_check_names_rows_of_shards(media, tmp_path, processor, visual_tokens):
    records = [CLIP, {**CLIP, "video": "none.mp4"}, CLIP, {"conversations": turns("Hello </s>", "a")}]
    shard = write_tar(tmp_path / "a.tar", {**media, "a.json": records})
    contents = read_contents([(str(shard), None, False)], processor.tokenizer, visual_tokens, 1000)
    assert [(problem.row, problem.file) for problem in contents.problems] == [
        (f"{shard} a.json row 2", str(shard)),
        (f"{shard} a.json row 4", str(shard)),
    ]
    assert contents.problems[0].reason.startswith("message 1: no member of its shard is named 'none.mp4'")
    assert contents.duplicates == [(f"{shard} a.json row 3", f"{shard} a.json row 1")]
