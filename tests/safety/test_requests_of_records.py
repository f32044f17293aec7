"""A record makes us ask public addresses, or the hosts that the recipe lists, and never those inside of a network."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.decoding.probe import File, probe
from data.errors import OutageError, UserError
from data.media import hosts
from data.media.download import download
from data.media.hosts import is_public
from data.media.http_file import read_part
from data.media.reference import Address, Downloads, Media, Part
from data.media.storage import local_file
from data.sources.source import Source, file_sizes, read_records
from tests.serving import serving
from train.recipe.load import load_recipe

PRIVATE = (
    *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::"),
    "2001:db8::1",
)
PUBLIC = ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")


class Handler(BaseHTTPRequestHandler):
    """Notes what it is asked for; /to/X leads to X, everything else is a file of two bytes."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.asked.append((self.headers["Host"], self.path))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if self.headers["Range"] else 200)
        self.send_header("Content-Length", "2")
        self.send_header("Content-Range", "bytes 0-1/2")
        self.end_headers()
        self.wfile.write(b"ok")


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.asked = True, []
    with serving(server):
        yield server


@pytest.fixture
def names(monkeypatch):
    """Names of hosts -> their addresses, as a name server of a stranger gives them, the first one first."""
    table: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(name, *arguments, **options):
        if name in table:
            found = table[name].pop(0) if len(table[name]) > 1 else table[name][0]
            return real(found, *arguments, **options)
        return real(name, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: {name_or_path: a}\ndata: {train: [{path: train.json}]}\ntraining: {output_dir: outputs/run}\n"
    )
    return path


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_of_the_internet_are_known(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_known(address):
    assert is_public(address)


WAYS = {
    "a clip": lambda address: download(address, "x"),
    "a picture that is decoded": lambda address: local_file(Media("image", "x", place=address)).__enter__(),
    "a clip that is probed": lambda address: (_ for _ in ()).throw(
        UserError(probe(File("video", "x", place=address))[0])
    ),
    "a member of a shard": lambda address: read_part(Part(address, 0, 2), "x"),
    "the records of a shard": lambda address: list(read_records(address.url, address.downloads, _stop)),
    "the size of a shard": lambda address: file_sizes(Source(address.url, downloads=address.downloads)),
}


def _stop(problem):
    raise problem


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "inner.test"])
def test_no_request_goes_inside(way, host, server, names, tmp_path):
    names["inner.test"] = ["127.0.0.1"]
    url = f"http://{host}:{server.server_port}/x.tar"
    with pytest.raises(UserError, match="no public address; if you trust the data, allow it in media_hosts") as refused:
        WAYS[way](Address(url, Downloads(str(tmp_path))))
    assert server.asked == [] and not isinstance(refused.value, OutageError) and "\n" not in str(refused.value)


@pytest.mark.parametrize("way", WAYS)
def test_no_redirect_leads_inside(way, server, names, tmp_path, monkeypatch):
    """Take the first host for one of the internet."""
    names["outer.test"] = ["127.0.0.1"]
    monkeypatch.setattr(hosts, "is_public", lambda address: address == "127.0.0.1")
    for target in (f"http://[::1]:{server.server_port}/x.tar", "http://169.254.169.254/latest/x.tar"):
        url = f"http://outer.test:{server.server_port}/to/{target}"
        with pytest.raises(UserError, match="(::1|169.254.169.254) is at (::1|169.254.169.254), which is no public"):
            WAYS[way](Address(url, Downloads(str(tmp_path))))
    assert [host for host, _ in server.asked] == [f"outer.test:{server.server_port}"] * 2


def test_a_name_that_changes_its_address_is_asked_where_it_was_checked(server, names, tmp_path, monkeypatch):
    """A name server of the attacker's says something public first, and then 127.0.0.1."""
    names["rebinding.test"] = ["192.0.2.7", "127.0.0.1"]
    monkeypatch.setattr(hosts, "is_public", lambda address: address == "192.0.2.7")
    connected = []
    monkeypatch.setattr(hosts.httpx.HTTPTransport, "handle_request", lambda self, request: connected.append(request))
    with pytest.raises(AttributeError):  # nothing came back
        hosts.checked_client(Downloads(str(tmp_path)), 5, 5).get("https://rebinding.test/x.mp4")
    (request,) = connected
    assert request.url.host == "192.0.2.7" and request.extensions["sni_hostname"] == "rebinding.test"
    assert request.headers["Host"] == "rebinding.test"


def test_a_list_names_all_that_may_be_asked(server, names, tmp_path):
    names.update(
        {
            "clips.test": ["127.0.0.1"],
            "clips.test.": ["127.0.0.1"],
            "a.media.test": ["127.0.0.1"],
            "other.test": ["127.0.0.1"],
        }
    )

    def ask(host: str, path: str = "x.mp4") -> str:
        url = f"http://{host}:{server.server_port}/{path}"
        return download(Address(url, Downloads(str(tmp_path), hosts=("clips.test", "*.MEDIA.test"))), "x")

    for host in ("clips.test", "CLIPS.test", "a.media.test", "clips.test."):
        with open(ask(host), "rb") as file:
            assert file.read() == b"ok"
    asked = len(server.asked)
    for host, path in (
        ("other.test", "x.mp4"),
        ("media.test", "x.mp4"),
        ("127.0.0.1", "x.mp4"),
        ("example.com", "x.mp4"),
        ("clips.test", f"to/http://other.test:{server.server_port}/x.mp4"),
    ):
        with pytest.raises(UserError, match="is not in media_hosts; add it if you trust the data"):
            ask(host, path)
    assert len(server.asked) == asked + 1
    assert ask("clips.test", f"to/http://a.media.test:{server.server_port}/x.mp4")


def test_the_server_that_is_set_as_the_hub_may_be_asked(server, tmp_path, monkeypatch):
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(hosts.constants, "ENDPOINT", url)
    assert download(Address(f"{url}/x.mp4", Downloads(str(tmp_path))), "x")
    with pytest.raises(UserError, match="no public address"):
        download(Address("http://127.0.0.1:1/x.mp4", Downloads(str(tmp_path))), "x")


def test_a_proxy_is_not_asked_for_what_is_inside(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{server.server_port}")
    for host in ("169.254.169.254", "localhost", "10.0.0.1"):
        with pytest.raises(UserError, match="no public address"):
            download(Address(f"http://{host}/x.mp4", Downloads(str(tmp_path))), "x")
    assert server.asked == []
    download(Address("http://unknown.invalid/x.mp4", Downloads(str(tmp_path))), "x")
    assert server.asked == [("unknown.invalid", "http://unknown.invalid/x.mp4")]
    monkeypatch.setenv("no_proxy", "other.invalid")
    with pytest.raises(UserError, match="ConnectError"):
        download(Address("http://other.invalid/x.mp4", Downloads(str(tmp_path))), "x")
    assert len(server.asked) == 1


@pytest.mark.parametrize("length", ["9" * 5000, "many", "-1", "\u00b2"])
def test_a_server_s_numbers_are_not_believed(length, tmp_path, monkeypatch):
    class Odd(Handler):
        def send_header(self, key, value):
            super().send_header(key, f"bytes 0-1/{length}" if key == "Content-Range" else value)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    server.asked = []
    with serving(server):
        limits = Downloads(str(tmp_path), hosts=("127.0.0.1",))
        address = Address(f"http://127.0.0.1:{server.server_port}/x.tar", limits)
        assert read_part(Part(address, 0, 2), "x") == b"ok"


@pytest.mark.parametrize("name", ["https://a.org", "a.org/x", "a.org:80", "me@a.org", ""])
def test_a_host_in_a_recipe_is_a_name(name, minimal):
    with pytest.raises(UserError, match="data.media_hosts"):
        load_recipe(minimal, [f"data.media_hosts={json.dumps([name])}"])


def test_hosts_of_a_recipe_reach_what_asks_them(minimal):
    recipe = load_recipe(minimal, ['data.media_hosts=[127.0.0.1, "*.example.org", "::1"]'])
    (source,) = recipe.data.sources(recipe.data.train)
    assert source.downloads.hosts == ("127.0.0.1", "*.example.org", "::1")
    assert load_recipe(minimal).data.sources(recipe.data.train)[0].downloads.hosts is None
