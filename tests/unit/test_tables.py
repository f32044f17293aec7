"""The same conversations and media from Parquet and Arrow as from files: equal messages, bit-identical pixels."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.decoding.decode import decode
from data.errors import UserError
from data.sources.conversation import read_conversations
from data.sources.source import Source
from tests.source_samples import check_same, failure
from tests.tiny_data import MIXED_RECORDS


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
        check_same(read_conversations(Source(tmp_path / name)), expected)
        first = next(read_conversations(Source(tmp_path / name)))
        assert (first.name, first.record["id"]) == (f"{tmp_path / name} record 1", 0)
        assert first.media[0].path == f"{tmp_path / name}/record 1/{'video' if form == 'bare' else 'clip0.mp4'}"


def test_what_datasets_saves_is_the_files(media, expected, tmp_path):
    table_set = datasets.Dataset(table_of(media, "conversations"))
    table_set.save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    check_same(read_conversations(Source(file)), expected)
    table_set.to_parquet(tmp_path / "a.parquet")
    check_same(read_conversations(Source(tmp_path / "a.parquet")), expected)


def test_bytes_of_a_table_are_not_read_with_its_rows(media, tmp_path, monkeypatch):
    pq.write_table(table_of(media, "conversations"), tmp_path / "a.parquet")
    read = []
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, n, g, columns, **k: read.extend(columns) or iter_batches(self, n, g, columns, **k),
    )
    assert len(list(read_conversations(Source(tmp_path / "a.parquet")))) == len(MIXED_RECORDS)
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
    check_same(read_conversations(Source(tmp_path / "a.parquet", media_root=media_folder)), expected)


def test_what_is_wrong_with_a_table_is_named(media, tmp_path):
    table = table_of(media, "conversations")
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert failure(path).startswith(f"{path}: is damaged or not a parquet file")
    path.write_bytes(content)
    item = next(read_conversations(Source(path))).media[0]
    path.write_bytes(content[:-100])
    with pytest.raises(UserError, match="a.parquet/record 1/clip0.mp4' cannot be read: .*a.parquet: "):
        decode(item, 8)
    (tmp_path / "b.arrow").write_bytes(b"nonsense")
    assert failure(tmp_path / "b.arrow").startswith(f"{tmp_path}/b.arrow: is damaged or not a arrow file")
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(tmp_path / "c.arrow", table.schema, options=options) as writer:
        writer.write_table(table)
    assert "its bytes are compressed: write it without compression" in failure(tmp_path / "c.arrow")
    assert "cannot read the data file: No such file" in failure(tmp_path / "none.parquet")
    pq.write_table(pa.table({"conversations": ["text"]}), path)
    assert failure(path).startswith(f"{path} record 1, conversations: expected a list of turns, got 'text'")
