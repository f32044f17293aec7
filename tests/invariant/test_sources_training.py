"""A run does not depend on where its rows and media are: the same losses and adapter, byte for byte."""

import io
import json
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.serving import PartServer, serving
from tests.short_run import metrics, result, write_recipe
from tests.tiny_data import MIXED_RECORDS
from train.run_folder.provenance import PROVENANCE
from train.sft import main


@pytest.fixture
def train(model_folder, tmp_path):
    """Four steps; the losses, the adapter, and the fingerprint of the data."""

    def run(path: Path | str, streaming: bool = False, **training) -> tuple[list, bytes, dict]:
        settings = {"max_steps": 4, "logging_steps": 1, "learning_rate": 1e-2, **training}
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        data = {"rows_per_step": 2, "streaming": streaming, "media_hosts": ["127.0.0.1"]}
        main([str(write_recipe(folder, model_folder, path, {}, data, settings))])
        said = json.loads((folder / "out" / PROVENANCE).read_text())["data"]
        return metrics(folder / "out", "loss"), result(folder / "out"), said

    return run


def test_tar_shards_train_as_files(train, mixed_file, media_folder, tmp_path):
    """Two shards; the second begins with another clip, so that questions about one clip share it as in the files."""
    for number, records in enumerate((MIXED_RECORDS[:6], MIXED_RECORDS[6:14] + MIXED_RECORDS[15:])):
        with tarfile.open(tmp_path / f"shard-{number}.tar", "w") as tar:
            for path in sorted(media_folder.iterdir()):
                tar.add(path, path.name)
            rows = json.dumps(records).encode()
            header = tarfile.TarInfo("rows.json")
            header.size = len(rows)
            tar.addfile(header, io.BytesIO(rows))
    records = json.loads(mixed_file.read_text())
    mixed_file.write_text(json.dumps(records[:14] + records[15:]))  # without the one about a clip of the first shard
    files, shards = train(mixed_file), train(tmp_path / "shard-{0..1}.tar")
    assert len(files[0]) == 4 and files == shards
    # Read while it is trained on, in an order of its own; from this disk, and from a server's.
    streamed = [train(mixed_file, streaming=True), train(tmp_path / "shard-{0..1}.tar", streaming=True)]
    with serving(PartServer(tmp_path)) as server:
        address = f"{server.address}/shard-{{0..1}}.tar"
        streamed.append(train(address, streaming=True, dataloader_num_workers=1))
    assert len(streamed[0][0]) == 4 and streamed[0][:2] == streamed[1][:2] and streamed[1] == streamed[2]


def test_a_table_trains_as_files(train, mixed_file, media_folder, tmp_path):
    """One row a clip, whose bytes are in it; read in a worker process."""
    records = [json.loads(mixed_file.read_text())[number] for number in (0, 3, 6, 9)]
    mixed_file.write_text(json.dumps(records))
    clips = [{"bytes": Path(record["video"][0]).read_bytes(), "path": None} for record in records]
    rows = [{**record, "video": clip} for record, clip in zip(records, clips, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    files, table = train(mixed_file), train(tmp_path / "rows.parquet", dataloader_num_workers=1)
    assert len(files[0]) == 4 and files[:2] == table[:2]
