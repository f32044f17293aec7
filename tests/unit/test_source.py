"""Patterns of files, and bytes in rows."""

import base64
import json
import os

import numpy as np
import pytest

from data.decoding.decode import decode
from data.media.reference import Downloads, Media
from data.sources.conversation import read_conversations
from data.sources.source import Source, expand_braces, find_files
from tests.source_samples import failure
from tests.tiny_data import turns


def test_braces_as_the_shell_expands_them():
    assert expand_braces("a{08..10}{x,y}") == ["a08x", "a08y", "a09x", "a09y", "a10x", "a10y"]
    assert expand_braces("plain") == ["plain"]
    assert expand_braces("{3..1}") == ["3", "2", "1"] and expand_braces("{8..010}") == ["008", "009", "010"]


def test_a_file_of_that_very_name_is_no_pattern(tmp_path):
    path = tmp_path / "train[1].json"
    path.write_text(json.dumps([{"conversations": turns("Hello", "fine")}]))
    assert find_files(Source(str(path))) == ([str(path)], None) and len(list(read_conversations(Source(path)))) == 1


@pytest.mark.parametrize("ending", [".json", ".parquet", ".arrow", ".tar"])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_records_are_read_from_files_alone(kind, ending, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # without a writer: it would be waited for
    path = tmp_path / f"data{ending}"
    path.symlink_to({"device": "/dev/zero", "pipe": tmp_path / "pipe", "folder": tmp_path}[kind])
    reason = "is a pipe, a device or a folder; write the records into a file"
    assert failure(Source(f"{tmp_path}/da*{ending}")).endswith(reason)


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
        ({"bytes": "###"}, "record 1, message 1, bytes: not base64"),
        ({"bytes": ""}, "a <video> has no clip"),
        ({"bytes": [1] * 1000}, "message 1, bytes: expected the bytes of a file in base64, got [1, 1"),
        ({"frames": "a.png"}, "message 1, video: expected a path or, for a clip, a list of pictures"),
        ({"frames": ["a.png"], "fps": 0}, "message 1, fps: expected pictures a second, got 0"),
        ({"frames": [3]}, "message 1, frames"),
        ({"url": "ftp://host/a.mp4"}, "message 1, url: must begin with http://, https:// or file://"),
        (
            {"url": "file://host/a.mp4"},
            "names no file of this machine: it must be file:/// and a path from the root on",
        ),
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
    assert found.startswith(f"{tmp_path}/a.json record 1") and message in found and len(found) < 600
