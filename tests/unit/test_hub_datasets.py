"""Data sets from a stand-in for the hub, and from folders: the files of a split, and the samples in them."""

import io
import json
import os
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from data.decoding.decode import decode
from data.errors import UserError
from data.media.reference import Media
from data.sources.conversation import read_conversations
from data.sources.hub_datasets import is_hub_id
from data.sources.source import Source
from tests.hub_stand_in import SHA, TOKEN, HubStandIn
from tests.serving import serving
from tests.tiny_data import MIXED_RECORDS, turns

CONFIGS = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: rows/*.json}
  - {split: validation, path: rows/late.jsonl}
---
"""
RECORD = {"video": "clip0.mp4", "conversations": turns("<video>\nWhat colour?", "red")}


@pytest.fixture
def hub(media_folder):
    server = HubStandIn()
    media = {f"clips/{path.name}": path.read_bytes() for path in media_folder.iterdir()}
    rows = [{**record, "id": number} for number, record in enumerate(MIXED_RECORDS)]
    server.data_sets["me/clips"] = {
        "README.md": CONFIGS.encode(),
        "rows/all.json": json.dumps(rows).encode(),
        "rows/late.jsonl": json.dumps({**RECORD, "video": "../../../../../../etc/passwd"}).encode(),
        **media,
    }
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for name, content in (("a.mp4", media["clips/clip0.mp4"]), ("a.json", json.dumps(RECORD["conversations"]))):
            header = tarfile.TarInfo(name)
            content = content if isinstance(content, bytes) else content.encode()
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    shards = {f"data/{split}-0000{n}.tar": shard.getvalue() for split, n in (("train", 0), ("train", 1), ("test", 0))}
    server.data_sets["me/shards"] = shards
    with serving(server):
        yield server


CHILD = """
import sys
from data.errors import UserError
from data.sources.hub_datasets import files_in, snapshot
for path, revision, split, files in eval(sys.argv[1]):
    try:
        folder = snapshot(path, revision, files)
        print(folder, *files_in(folder, path, split, files), sep="|")
    except UserError as error:
        print(f"error: {error}")
"""


IN_PLACE = """
import sys
from hashlib import sha256
from data.sources.conversation import read_conversations
from data.sources.source import Source
from data.media.storage import local_file
for (conversation,) in [read_conversations(Source("me/shards", files="data/train-00001.tar", in_place=True))]:
    with local_file(conversation.media[0]) as path:
        print(conversation.name, sha256(open(path, "rb").read()).hexdigest(), sep="|")
"""


def ask(hub, tmp_path, *sources, token=TOKEN, offline="0", code=CHILD) -> list[str]:
    """Return a line for each of (path, revision, split, files), from a process of its own, as the client needs."""
    environment = {
        **os.environ,
        **{"HF_ENDPOINT": hub.address, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": "."},
        **{"HF_HUB_OFFLINE": offline, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"},
    }
    line = [sys.executable, "-c", code, repr(sources)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert token not in done.stdout + done.stderr
    return done.stdout.splitlines()


def test_splits_of_the_hub_are_the_local_files(hub, tmp_path, media_folder):
    lines = ask(
        hub,
        tmp_path,
        ("me/clips", None, "train", None),
        ("me/shards", "main", "train", None),
        ("me/shards", SHA, None, "data/test-*.tar"),
        ("me/clips", None, None, None),
        ("me/clips", None, "test", None),
        ("me/clips", "v9", "train", None),
        ("me/none", None, "train", None),
        ("me/clips", None, None, "rows/*.tar"),
    )
    (folder, rows), (shards, *trained), (_, tested) = (line.split("|") for line in lines[:3])
    assert rows == f"{folder}/rows/all.json"
    assert trained == [f"{shards}/data/train-0000{number}.tar" for number in range(2)]
    assert tested == f"{shards}/data/test-00000.tar"
    assert lines[3] == "error: me/clips: has the splits train, validation; choose one with the key split"
    assert lines[4].startswith("error: me/clips: has no split 'test', but train, validation")
    assert lines[5].startswith("error: me/clips at revision v9: ") and "RevisionNotFoundError" in lines[5]
    assert lines[6].startswith("error: me/none: ") and "RepositoryNotFoundError" in lines[6]
    assert lines[7].startswith("error: me/clips: no .json, .jsonl, .parquet, .arrow, .tar file in 'rows/*.tar'")

    (refused,) = ask(hub, tmp_path / "other", ("me/clips", None, "train", None), token="hf_" + "wrong" * 7)
    assert refused.startswith("error: me/clips: ") and "401" in refused
    (again,) = ask(hub, tmp_path, ("me/clips", None, "train", None), offline="1")
    assert again == lines[0]

    # What the snapshot holds gives the samples of the files that it was made of.
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(MIXED_RECORDS))
    expected = list(read_conversations(Source(plain, media_root=media_folder)))
    found = list(read_conversations(Source(rows, media_root=Path(folder) / "clips")))
    assert [each.messages for each in found] == [each.messages for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for item, other in zip(ours.media, theirs.media, strict=True):
            assert np.array_equal(decode(item, 8), decode(other, 8))
    clip = decode(Media("video", str(media_folder / "clip0.mp4")), 8)
    for (conversation,) in map(read_conversations, map(Source, trained)):
        assert np.array_equal(decode(conversation.media[0], 8), clip)


def test_shards_of_the_hub_are_read_where_they_lie(hub, tmp_path, media_folder):
    """They are read with the token that the stand-in wants, at a commit, which may not change in the midst of a run."""
    (line,) = ask(hub, tmp_path, code=IN_PLACE)
    name, digest = line.split("|")
    assert name == f"{hub.address}/datasets/me/shards/resolve/{SHA}/data/train-00001.tar a.json"
    assert digest == sha256((media_folder / "clip0.mp4").read_bytes()).hexdigest()
    assert not list((tmp_path / "home").rglob("*.tar"))


def test_rows_of_the_hub_open_no_file_outside_of_their_set(tmp_path, media_folder, monkeypatch):
    folder = tmp_path / "snapshot"
    (folder / "clips").mkdir(parents=True)
    (folder / "clips" / "clip0.mp4").write_bytes((media_folder / "clip0.mp4").read_bytes())
    inside, outside = {**RECORD, "video": "../snapshot/clips/clip0.mp4"}, {**RECORD, "video": "../../secret.mp4"}
    (folder / "train.json").write_text(json.dumps([{**RECORD, "video": "clips/clip0.mp4"}, inside, outside]))
    monkeypatch.setattr("data.sources.source.snapshot", lambda *_: str(folder))
    rows = read_conversations(Source("me/clips"))
    assert [os.path.realpath(next(rows).media[0].path) for _ in range(2)] == [str(folder / "clips" / "clip0.mp4")] * 2
    with pytest.raises(UserError, match="train.json record 3: clip .* is outside of media_root"):
        next(rows)
    (folder / "train.json").write_text(json.dumps([RECORD]))
    (only,) = read_conversations(Source("me/clips", media_root="clips"))
    assert only.media[0].path == str(folder / "clips" / "clip0.mp4")


def test_a_local_folder_has_splits_too(tmp_path):
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        (tmp_path / "set" / f"{split}.json").write_text(json.dumps([{"conversations": turns("Hello", split)}]))
    for split in ("train", "test"):
        (conversation,) = read_conversations(Source(str(tmp_path / "set"), split=split))
        assert conversation.messages[1]["content"][0]["text"] == split


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"revision": "main"}, "has no revision 'main'"), ({"split": "train"}, "remove split and files")],
)
def test_keys_of_a_set_beside_a_file(keys, message, tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match=message):
        list(read_conversations(Source(str(tmp_path / "a.json"), **keys)))


def test_what_can_be_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "set").mkdir(parents=True)
    names = ("owner/name", "owner/na.me-2", "owner/train.json", "a/b/c", "name", "mine/set", "../name", "o/*.tar")
    assert [name for name in names if is_hub_id(name)] == ["owner/name", "owner/na.me-2"]
