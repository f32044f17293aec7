"""Shards behind addresses are the shards in files: read in parts, nothing kept, every failure one line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.decoding.decode import decode
from data.decoding.isolated_decoder import IsolatedDecoder
from data.decoding.probe import File, probe
from data.errors import MediaError, OutageError, UserError
from data.media import http_file
from data.media.http_file import open_remote, read_part, remote_size
from data.media.reference import Address, Downloads, Media, Part, Pictures, identity, size
from data.media.storage import check_media, fetched
from data.sources.conversation import read_conversations
from data.sources.source import Source, file_sizes
from tests.serving import PartServer, serving
from tests.source_samples import write_tar
from tests.tiny_data import MIXED_RECORDS, turns

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def server(media_folder, tmp_path):
    """A shard with all records, and between its media some that no record names, of 300 kB each."""
    members = {}
    for number, path in enumerate(sorted(media_folder.iterdir())):
        members |= {path.name: path.read_bytes(), f"noise{number}.bin": os.urandom(300_000)}
    (folder := tmp_path / "served").mkdir()
    write_tar(folder / "all.tar", {**members, "train.json": MIXED_RECORDS})
    with serving(PartServer(folder)) as server:
        yield server


@pytest.fixture
def at(server, tmp_path):
    def address(name: str, **limits) -> Address:
        url = name if name.startswith("http:") else f"{server.address}/{name}"
        return Address(url, Downloads(str(tmp_path / "cache"), **limits, hosts=("127.0.0.1",)))

    return address


def shard(at, name: str = "all.tar?key=SECRET", media_root: Path | None = None) -> Source:
    address = at(name)
    return Source(address.url, media_root=media_root, downloads=address.downloads)


reads = st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 300)), max_size=12)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(reads)
def test_reads_anywhere_are_those_of_the_file(server, at, monkeypatch, places):
    content = bytes(range(250)) * 4
    (server.folder / "a.bin").write_bytes(content)
    monkeypatch.setattr(http_file, "FIRST_WINDOW", 32)
    monkeypatch.setattr(http_file, "LAST_WINDOW", 128)
    with open_remote(at("a.bin"), "a.bin") as file:
        for start, number in places:
            assert file.seek(start) == start
            assert file.read(number) == content[start : start + number]
            assert file.tell() == start + len(content[start : start + number])
        file.seek(0)
        assert file.read() == content


def test_what_follows_is_fetched_ahead_and_a_jump_fetches_little(server, at, monkeypatch):
    (server.folder / "a.bin").write_bytes(bytes(10_000))
    monkeypatch.setattr(http_file, "FIRST_WINDOW", 100)
    monkeypatch.setattr(http_file, "LAST_WINDOW", 800)
    with open_remote(at("a.bin"), "a.bin") as file:
        file.read(3000)
        file.seek(9000)
        file.read(10)
    assert [(start, number) for _, start, number in server.asked] == [
        *[(0, 100), (100, 200), (300, 400), (700, 800), (1500, 800), (2300, 800)],
        (9000, 100),
    ]
    assert remote_size(at("a.bin"), "a.bin") == 10_000


def test_a_shard_in_place_is_the_shard(server, at, tmp_path):
    here, there = list(read_conversations(Source(server.folder / "all.tar"))), list(read_conversations(shard(at)))
    assert [each.messages for each in there] == [each.messages for each in here]
    assert there[1].name == f"{server.address}/all.tar train.json record 2"
    read = sum(number for *_, number in server.asked)
    assert read < (server.folder / "all.tar").stat().st_size / 2, "only headers and rows"
    for ours, theirs in zip(there, here, strict=True):
        for item, other in zip(ours.media, theirs.media, strict=True):
            assert (item.path, size(item)) == (f"{server.address}/all.tar/{os.path.basename(other.path)}", size(other))
            assert np.array_equal(decode(item, 8), decode(other, 8))
            check_media(item)
    assert there[0].media == there[1].media and there[0].media != there[3].media
    assert identity(there[0].media[0]) != identity(there[3].media[0])
    assert not (tmp_path / "cache").exists(), "nothing is kept"
    assert "SECRET" not in repr(there[0].media)
    assert file_sizes(shard(at)) == [(f"{server.address}/all.tar", (server.folder / "all.tar").stat().st_size)]


def test_an_isolated_decoder_is_given_what_was_fetched(at, media_folder):
    (conversation, *_) = read_conversations(shard(at))
    item, decoder = conversation.media[0], IsolatedDecoder(seconds=60)
    expected = decode(Media("video", str(media_folder / "clip0.mp4")), 8)
    assert np.array_equal(decoder(item, 8), expected)
    with fetched(item) as here:
        copy = here.place.file
        assert (here.path, os.path.getsize(copy)) == (item.path, item.place.size)
    assert not os.path.exists(copy)
    frames = tuple(Media("image", item.path, place=item.place) for _ in range(2))
    with fetched(Media("video", "frames", place=Pictures(frames, 2.0))) as here:
        assert {os.path.getsize(frame.place.file) for frame in here.place.frames} == {item.place.size}


def test_several_shards_by_braces(server, at):
    whole = (server.folder / "all.tar").read_bytes()
    for number in range(3):
        (server.folder / f"{number:02}.tar").write_bytes(whole)
    rows = list(read_conversations(shard(at, "{00..02}.tar")))
    assert len(rows) == 3 * len(MIXED_RECORDS)
    assert [row.name.split()[0] for row in rows[:: len(MIXED_RECORDS)]] == [
        f"{server.address}/{number:02}.tar" for number in range(3)
    ]


def failure(*arguments) -> str:
    with pytest.raises(UserError) as error:
        list(read_conversations(*arguments))
    assert "\n" not in str(error.value) and "SECRET" not in str(error.value)
    return str(error.value)


def test_what_is_wrong_with_a_shard_is_one_line(server, at):
    (server.folder / "cut.tar").write_bytes((server.folder / "all.tar").read_bytes()[:400_000])
    (server.folder / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    for name, reason in {
        "none.tar?key=SECRET": "cannot be read: the server answers 404",
        "whole/all.tar?key=SECRET": "cannot be read: its server does not send parts of files",
        "cut.tar": "is truncated or not a tar file",
        "a.tar": "is compressed, so its members cannot be read one by one",
        "rows.jsonl?key=SECRET": "of addresses only tar shards are read",
        "http://127.0.0.1:1/a.tar?key=SECRET": "cannot be read: ConnectError",
    }.items():
        told = failure(shard(at, name))
        shown = name.partition("?")[0]
        assert told.startswith(f"{shown if shown.startswith('http') else f'{server.address}/{shown}'}: {reason}"), told
    assert "has no revision, split and files" in failure(Source(f"{server.address}/all.tar", split="train"))
    problems = []
    (server.folder / "b.tar").write_bytes((server.folder / "all.tar").read_bytes())
    found = list(read_conversations(shard(at, "{none,b}.tar"), problems.append))
    assert len(found) == len(MIXED_RECORDS) and len(problems) == 1


def test_what_is_wrong_with_a_part_is_the_file_s(server, at):
    (conversation, *_) = read_conversations(shard(at))
    item = conversation.media[0]
    small = Media("video", item.path, place=Part(at("all.tar", max_bytes=10), item.place.offset, item.place.size))
    with pytest.raises(MediaError, match="clip0.mp4' cannot be downloaded: larger than 9.53674e-06 MiB"):
        IsolatedDecoder(seconds=60)(small, 8)
    (server.folder / "all.tar").write_bytes((server.folder / "all.tar").read_bytes()[: item.place.offset + 100])
    (reason,) = probe(File("video", item.path, place=item.place))
    assert "clip0.mp4' cannot be read: its shard has changed" in reason


def test_a_server_may_be_away_for_a_moment(server, at):
    (conversation, *_) = read_conversations(shard(at))
    item = conversation.media[0]
    expected = read_part(item.place, item.path)
    server.failures += [503, 429]
    assert read_part(item.place, item.path) == expected
    decoder, frames = IsolatedDecoder(seconds=60), decode(item, 8)
    server.failures += [503, 500, 502] * 2
    assert np.array_equal(decoder(item, 8), frames), "the third try of three"
    server.failures += [503, 500, 502] * 3
    with pytest.raises(OutageError, match="the server answers 502"):
        IsolatedDecoder(seconds=60)(item, 8)
    server.failures += [403]
    with pytest.raises(MediaError, match="the server answers 403"):
        IsolatedDecoder(seconds=60)(item, 8)


def test_rows_name_media_by_address_in_place_or_not(server, at, media_folder, tmp_path):
    """A row of a shard behind an address may name a file of media_root, as a row of a file may."""
    row = {"video": "clip1.mp4", "conversations": turns("<video>\nWhat?", "red")}
    write_tar(server.folder / "rows.tar", {"rows.json": json.dumps([row]).encode()})
    (conversation,) = read_conversations(shard(at, "rows.tar", media_root=media_folder))
    assert conversation.media[0].path == str(media_folder / "clip1.mp4")
    assert "no member of its shard is named 'clip1.mp4'" in failure(shard(at, "rows.tar"))
