"""Files that hold records of other trainers and data sets: as they are written, and in every kind of file."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.sources.conversation import read_conversations
from data.sources.source import Source
from tests.source_samples import failure, said, write_tar

ASKED = [("user", "<video>What is it?"), ("assistant", "A dog.")]


def lines(*records: dict) -> bytes:
    return b"\n".join(json.dumps(record).encode() for record in records)


RECORDS = [{"query": f"What is {n}?", "response": "A dog.", "videos": [f"{n}.mp4"]} for n in range(3)]
WRAPPED = json.dumps({"version": "1.0", "data": RECORDS, "licence": {"data": [3]}})
FILES = {
    "list.json": json.dumps(RECORDS).encode(),
    "lines.jsonl": lines(*RECORDS),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(*RECORDS),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(RECORDS).encode(),
    "crlf.jsonl": lines(*RECORDS).replace(b"\n", b"\r\n") + b"\r\n\r\n",
    "crlf.json": json.dumps(RECORDS, indent=1).encode().replace(b"\n", b"\r\n"),
    "wrapped.json": WRAPPED.encode(),
    "wrapped_bom.json": b"\xef\xbb\xbf \r\n" + json.dumps({"data": RECORDS}, indent=2).encode(),
    # Lines whose records have a key "data" of their own are no object around records.
    "lines_with_data.jsonl": lines(*({"data": [1, 2], **record} for record in RECORDS)),
    "lines_with_data_behind.jsonl": lines(*({**record, "data": "x"} for record in RECORDS)),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_programs_are_read(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    found = list(read_conversations(Source(tmp_path / name)))
    assert [said(each)[0][1] for each in found] == [f"<video>What is {n}?" for n in range(3)]
    assert [each.name for each in found] == [f"{tmp_path / name} record {n}" for n in (1, 2, 3)]
    (by_address, *_) = read_conversations(Source(f"file://{tmp_path}/{name}", media_root=f"file://{tmp_path}"))
    assert by_address.media == found[0].media


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_an_object_around_records_is_read_in_pieces_of_any_size(piece, tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.json_records.PIECE", piece)
    (tmp_path / "a.json").write_text(WRAPPED)
    assert len(list(read_conversations(Source(tmp_path / "a.json")))) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WRAPPED[:-1], "a.json: not JSON: ends before the brace that closes its object"),
        (WRAPPED + WRAPPED, "a.json: not JSON: something stands behind its object"),
        ('{"data": [{"query": "x", "response": "y"}, {"x": }]}', "a.json record 2: not JSON"),
        ('{"data": [{"query": "x", "response": "y"}', "a.json: not JSON: ends before the bracket"),
        ('{"data": {"a": 1}}', "a.json record 1: needs 'conversations'"),
        ('{"data" [{"a": 1}]}', "a.json line 1: not JSON"),
    ],
)
def test_an_object_around_records_that_is_damaged(text, message, tmp_path):
    (tmp_path / "a.json").write_text(text)
    assert message in failure(tmp_path / "a.json")


def write_all(folder: Path, records: list[dict], media: dict[str, bytes]) -> list[Path]:
    """Write records into a file of every kind."""
    table = pa.Table.from_pylist(records)
    (folder / "a.json").write_text(json.dumps(records))
    (folder / "b.jsonl").write_bytes(lines(*records))
    (folder / "e.json").write_text(json.dumps({"data": records}))
    pq.write_table(table, folder / "c.parquet")
    with pa.ipc.new_file(folder / "d.arrow", table.schema) as writer:
        writer.write_table(table)
    members = {f"{number}.json": record for number, record in enumerate(records)}
    write_tar(folder / "f.tar", {**media, **members})
    write_tar(folder / "g.tar", {**media, "all.json": {"data": records}})
    return sorted(path for path in folder.iterdir() if path.suffix != ".mp4")


@pytest.mark.parametrize("form", ["columns", "tags", "video_id"])
def test_every_kind_of_file_has_the_same_conversations(form, tmp_path):
    media = {name: name.encode() for name in ("a.mp4", "b.mp4")}
    for name, content in media.items():
        (tmp_path / name).write_bytes(content)
    if form == "columns":
        records = [{"question": f"What is {name}?", "reply": "A dog.", "clip": [name]} for name in media]
        reading = {"columns": {"query": "question", "response": "reply", "videos": "clip"}}
    elif form == "tags":
        turns = [{"who": "guest", "says": "<video>What is it?"}, {"who": "host", "says": "A dog."}]
        records = [{"talk": turns, "clip": name} for name in media]
        tags = {"role_tag": "who", "content_tag": "says", "user_tag": "guest", "assistant_tag": "host"}
        reading = {"columns": {"conversations": "talk", "video": "clip"}, "tags": tags}
    else:
        records, reading = [{"q": "What is it?", "a": "A dog.", "video_id": name[0]} for name in media], {}
    for path in write_all(tmp_path, records, media):
        found = list(read_conversations(Source(path, **reading)))
        assert [Path(item.path).name for each in found for item in each.media] == list(media), path
        assert [said(each)[0][1][:14] for each in found] == ["<video>What is"] * 2, path
        assert [said(each)[1] for each in found] == [("assistant", "A dog.")] * 2, path


def test_bytes_of_a_table_under_another_name(tmp_path, media):
    records = [
        {"ask": "What?", "say": "A dog.", "film": {"bytes": media["clip0.mp4"], "path": "x.mp4"}, "other": b"1"},
        {"ask": "What?", "say": "A dog.", "film": {"bytes": media["clip1.mp4"], "path": None}, "other": b"2"},
    ]
    columns = {"query": "ask", "response": "say", "video": "film"}
    for path in (tmp_path / "a.parquet", tmp_path / "a.arrow"):
        table = pa.Table.from_pylist(records)
        if path.suffix == ".parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
        found = list(read_conversations(Source(path, columns=columns)))
        assert [Path(each.media[0].path).name for each in found] == ["x.mp4", "film"]
        assert failure(path).startswith(f"{path} record 1: needs 'conversations'")
        assert "it has 'ask', 'say', 'film', 'other'; name them with columns" in failure(path)


def test_a_question_in_a_shard_is_about_the_media_of_its_sample(tmp_path):
    shard = write_tar(tmp_path / "a.tar", {
        "1.mp4": b"x", "1.json": {"question": "What is it?", "answer": "A dog."},
        "2.png": b"x", "2.json": {"instruction": "<image>What?", "output": "A cat."},
        "3.png": b"x", "3.mp4": b"x", "3.json": {"q": "What is it?", "a": "A dog.", "video": "mp4"},
    })  # fmt: skip
    first, second, third = read_conversations(Source(shard))
    assert said(first) == said(third) == ASKED and said(second)[0] == ("user", "<image>What?")
    assert [[item.path[-5:] for item in each.media] for each in (first, second, third)] == [
        ["1.mp4"], ["2.png"], ["3.mp4"]]  # fmt: skip


def test_the_clip_of_a_name_without_its_ending(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two" / "frames").mkdir(parents=True)
    names = "one/v_1.mp4 one/v_2.WEBM one/v_2.json two/v_1.mkv two/v.3.avi two/17.mp4 two/v_5.mov two/v_5.mkv"
    for name in names.split():
        (tmp_path / name).write_bytes(b"x")
    ids = {"v_1": "one/v_1.mp4", "v_2": "one/v_2.WEBM", "v.3": "two/v.3.avi", 17: "two/17.mp4", "frames": "two/frames",
           "v_4": "one/v_4", "v_1.mp4": "one/v_1.mp4"}  # fmt: skip
    records = [{"q": "What?", "a": "A dog.", "video_id": name} for name in ids]
    (tmp_path / "a.json").write_text(json.dumps(records))
    roots = [str(tmp_path / "one"), str(tmp_path / "two")]
    found = read_conversations(Source(tmp_path / "a.json", media_root=roots))
    assert [each.media[0].path for each in found] == [str(tmp_path / path) for path in ids.values()]
    (tmp_path / "a.json").write_text(json.dumps([{"q": "What?", "a": "A dog.", "video_id": "v_5"}]))
    with pytest.raises(UserError, match="video_id: 'v_5' may be v_5.mkv or v_5.mov; name the clip in 'video'"):
        list(read_conversations(Source(tmp_path / "a.json", media_root=roots)))
    (tmp_path / "a.json").write_text(json.dumps([{"q": "What?", "a": "A dog.", "video_id": "../one/v_1"}]))
    with pytest.raises(UserError, match="outside of media_root"):
        list(read_conversations(Source(tmp_path / "a.json", media_root=str(tmp_path / "two"))))
