"""Addresses against a server of this machine: whole files, once, within their limits; every failure is one line."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from data.decoding.decode import decode
from data.decoding.isolated_decoder import IsolatedDecoder
from data.decoding.probe import File, probe
from data.errors import MediaError, OutageError, UserError
from data.files import UNFINISHED
from data.media.download import may_pass, path_of
from data.media.reference import Address, Downloads, Media, Pictures, identity
from data.media.storage import check_media, local_file
from data.sources.conversation import read_conversations
from data.sources.source import Source
from data.web import httpx
from tests.serving import serving
from tests.tiny_data import turns

pytestmark = pytest.mark.usefixtures("no_pauses")


class Handler(BaseHTTPRequestHandler):
    """Files of a folder; /to/X redirects to X; /drip sends a byte at a time, /slow-header its header so."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        name = self.path.partition("?")[0].lstrip("/")
        self.server.asked.append(name)
        if name.startswith("to/"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("to/")[2])
            self.end_headers()
        elif name in ("drip.mp4", "slow-header.mp4"):
            self.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" if name[0] == "d" else b"")
        elif (path := self.server.folder / name.removeprefix("half/").removeprefix("chunked/")).is_file():
            content = path.read_bytes()
            self.send_response(200)
            if "chunked/" not in name:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if "half/" in name else content)
        else:
            self.send_error(404)

    def drip(self, first: bytes):
        self.wfile.write(first or b"HTTP/1.1 200 OK\r\nX-Padding: ")
        try:
            for _ in range(100):
                time.sleep(0.02)
                self.wfile.write(b"x")
                self.wfile.flush()
        except OSError:
            pass  # the client has gone


@pytest.fixture
def server(media_folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.folder, server.asked = True, media_folder, []
    with serving(server):
        yield server


@pytest.fixture
def at(server, tmp_path):
    """A clip behind a path of the server."""

    def media(path: str, max_bytes: int = 2**20, seconds: float = 20.0, kind: str = "video") -> Media:
        limits = Downloads(str(tmp_path / "cache"), max_bytes, seconds, ("127.0.0.1",))
        url = path if path.startswith("http:") else f"http://127.0.0.1:{server.server_port}/{path}"
        return Media(kind, url.partition("?")[0], place=Address(url, limits))

    return media


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_clips_by_address_are_those_in_files(server, media_folder, tmp_path):
    address = f"http://127.0.0.1:{server.server_port}"
    records = [
        {"video": f"{address}/clip0.mp4?key=SECRET", "conversations": turns("<video>\nWhat?", "red")},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "url": f"{address}/clip1.mp4"},
                        {"type": "image_url", "image_url": {"url": f"{address}/picture0.png"}},
                        {"type": "video", "frames": [f"{address}/picture1.png"] * 2},
                    ],
                },
                {"role": "assistant", "content": "red"},
            ]
        },
    ]
    (tmp_path / "a.json").write_text(json.dumps(records * 2))
    source = Source(
        tmp_path / "a.json", media_root=tmp_path, downloads=Downloads(str(tmp_path / "cache"), hosts=("127.0.0.1",))
    )
    media = [item for conversation in read_conversations(source) for item in conversation.media]
    for item in media:
        check_media(item)
    assert server.asked == []
    assert media[0].path == f"{address}/clip0.mp4" and media[0] == media[4] and identity(media[0]) != identity(media[1])
    assert "SECRET" not in repr(media) + repr([identity(item) for item in media])
    for item, name in zip(media, ("clip0.mp4", "clip1.mp4", "picture0.png"), strict=False):
        assert np.array_equal(decode(item, 8), decode(Media(item.kind, str(media_folder / name)), 8))
    picture = decode(Media("image", str(media_folder / "picture1.png")), 8)
    assert isinstance(media[3].place, Pictures) and np.array_equal(decode(media[3], 8), np.stack([picture] * 8))
    for item in media[4:]:
        decode(item, 8)
    assert sorted(server.asked) == ["clip0.mp4", "clip1.mp4", "picture0.png", "picture1.png"]
    assert len(files(tmp_path / "cache")) == 4


def test_many_at_once_fetch_once(server, at, media_folder):
    def read(_) -> bytes:
        with local_file(at("clip2.mp4")) as path:
            return Path(path).read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(8))) == {(media_folder / "clip2.mp4").read_bytes()}
    assert server.asked == ["clip2.mp4"]


def test_redirects_lead_to_http_only(server, at, media_folder):
    with local_file(at(f"to/http://127.0.0.1:{server.server_port}/clip0.mp4")) as path:
        assert Path(path).read_bytes() == (media_folder / "clip0.mp4").read_bytes()
    for target in (f"file://{media_folder}/clip0.mp4", "ftp://127.0.0.1/clip0.mp4"):
        with pytest.raises(UserError, match="cannot be downloaded: UnsupportedProtocol"):
            decode(at(f"to/{target}"), 8)


@pytest.mark.parametrize(
    ("path", "limits", "reason"),
    [
        ("none.mp4?key=SECRET", {}, "the server answers 404 Not Found"),
        ("clip0.mp4?key=SECRET", {"max_bytes": 1024}, "larger than 0.000976562 MiB; raise max_download_mib"),
        ("chunked/clip0.mp4", {"max_bytes": 1024}, "larger than 0.000976562 MiB"),
        ("half/clip0.mp4", {}, "RemoteProtocolError"),
        ("drip.mp4", {"seconds": 0.3}, "not here after 0.3 seconds; raise download_seconds"),
        ("slow-header.mp4", {"seconds": 0.3}, "not here after 0.3 seconds"),
        ("http://127.0.0.1:1/a.mp4", {}, "ConnectError"),
    ],
)
def test_what_cannot_be_had_is_one_line(path, limits, reason, at, tmp_path):
    item = at(path, **limits)
    for problem in (probe(File("video", item.path, place=item.place))[0], _failure(item)):
        assert problem.startswith(f"{item.path!r} cannot be downloaded: {reason}"), problem
        assert "SECRET" not in problem and "\n" not in problem
    assert [name for name in files(tmp_path / "cache") if not name.endswith(UNFINISHED)] == []


def _failure(item: Media) -> str:
    with pytest.raises(UserError) as error:
        decode(item, 8)
    assert error.value.__cause__ is None
    return str(error.value)


def test_a_cache_that_cannot_be_written_is_named(at, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert "cannot write" in (message := _failure(at("clip0.mp4"))) and "set media_cache" in message


def test_an_isolated_decoder_is_not_needed_for_a_failed_download(at):
    with pytest.raises(OutageError, match="a.mp4' cannot be downloaded: ConnectError .*tried 3 times"):
        IsolatedDecoder(seconds=1)(at("http://127.0.0.1:1/a.mp4"), 8)


def test_what_a_server_says_for_good_is_the_file_s_and_an_outage_is_nobody_s(at, server, media_folder):
    decoder = IsolatedDecoder(seconds=60)
    with pytest.raises(MediaError, match="the server answers 404"):
        decoder(at("none.mp4"), 8)
    for path, limits in (("drip.mp4", {"seconds": 0.3}), ("half/clip0.mp4", {})):
        with pytest.raises(OutageError, match="the same command goes on"):
            decoder(at(path, **limits), 8)
    expected = decode(Media("video", str(media_folder / "clip0.mp4")), 8)
    assert np.array_equal(decoder(at("clip0.mp4"), 8), expected)


@pytest.mark.parametrize(("number", "is_outage"), [(socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)])
def test_a_host_that_does_not_exist_is_no_outage(number, is_outage):
    try:
        try:
            raise socket.gaierror(number, "of the name server")
        except OSError as reason:
            raise httpx.ConnectError("no connection") from reason
    except httpx.ConnectError as error:
        assert may_pass(error) == is_outage


def test_an_address_keeps_its_suffix(at):
    assert [Path(path_of(at(name).place)).suffix for name in ("a.mp4?b=c.png", "a", "a.b/c")] == [".mp4", "", ""]
