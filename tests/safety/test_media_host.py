"""An endpoint asks no other server but those of --media-host, and tells its clients nothing of what is inside."""

import pytest

from tests.serving import PartServer, serving
from train.serving.files import Files
from train.serving.questions import Reader
from train.serving.refusals import Refusal
from train.serving.server import fetcher
from train.talking.sampling import Sampling

MIB = 2**20


class LeadingServer(PartServer):
    """Sends the files of a folder; /to/X leads to X."""

    def __init__(self, folder):
        super().__init__(folder)
        handler = self.RequestHandlerClass

        class Handler(handler):
            def do_GET(self):
                self.server.asked.append((self.headers["Host"], self.path))
                if not self.path.startswith("/to/"):
                    return self.send_whole()
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def send_whole(self):
                path = self.server.folder / self.path.lstrip("/").partition("?")[0]
                content = path.read_bytes() if path.is_file() else b""
                self.send_response(200 if content else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.RequestHandlerClass = Handler


@pytest.fixture
def server(media_folder):
    with serving(LeadingServer(media_folder)) as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch, no_pauses):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def reader_of(folder, *hosts, max_file=2 * MIB, seconds=20.0):
    files = Files(folder / "files", 4 * MIB, max_file)
    files.folder.mkdir(parents=True)
    return Reader("m", files, Sampling(), None, fetcher(files, hosts, folder, seconds))


def read(reader, url):
    part = {"type": "video_url", "video_url": {"url": url}}
    content = [part, {"type": "text", "text": "What?"}]
    return reader.read({"model": "m", "messages": [{"role": "user", "content": content}]})


def refusal(reader, url):
    with pytest.raises(Refusal) as refused:
        read(reader, url)
    told = refused.value
    assert 400 <= told.status < 500 and "\n" not in told.message and str(reader.files.folder.parent) not in told.message
    assert not any(blob.holds for blob in reader.files._blobs.values())
    return told.message


@pytest.mark.parametrize("pattern", ["127.0.0.1", "127.0.*"])
def test_a_host_that_is_named_is_asked(server, media_folder, tmp_path, pattern):
    reader = reader_of(tmp_path, pattern)
    question = read(reader, f"{server.address}/clip0.mp4?key=secret")
    assert open(question.media[0].path, "rb").read() == (media_folder / "clip0.mp4").read_bytes()
    assert question.media[0].path.startswith(str(reader.files.folder))
    leading = read(reader, f"{server.address}/to/{server.address}/clip1.mp4")
    assert open(leading.media[0].path, "rb").read() == (media_folder / "clip1.mp4").read_bytes()
    assert list((tmp_path / "downloads").glob("**/*.mp4")) == []  # what was fetched is kept once


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"]
)
@pytest.mark.parametrize("hosts", [("clips.example.com",), ("public",)])
def test_another_host_is_not_asked(server, tmp_path, host, hosts):
    """Neither one that is not named, nor, with `public`, one of the networks around."""
    told = refusal(reader_of(tmp_path, *hosts), f"http://{host}:{server.server_port}/clip0.mp4?key=secret")
    assert "not in --media-host" in told or "no public address" in told
    assert server.asked == [] and "secret" not in told


@pytest.mark.parametrize(
    "target", ["http://localhost:{port}/clip0.mp4", "http://169.254.169.254/latest", "file:///etc/passwd"]
)
def test_a_redirect_leads_to_no_other_host(server, tmp_path, target):
    reader = reader_of(tmp_path, "127.0.0.1")
    refusal(reader, f"{server.address}/to/{target.format(port=server.server_port)}")
    assert [path for _, path in server.asked if not path.startswith("/to/")] == []


def test_what_is_fetched_has_the_limits_of_what_is_sent(server, media_folder, tmp_path):
    reader = reader_of(tmp_path, "127.0.0.1", max_file=1000)
    assert (media_folder / "clip0.mp4").stat().st_size > 1000
    refusal(reader, f"{server.address}/clip0.mp4")
    assert reader.files.num_bytes == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/\x00", "http://[::1", "http://127.0.0.1:99999/x", "https://"])
def test_an_address_that_is_none_is_refused(server, tmp_path, url):
    refusal(reader_of(tmp_path, "127.0.0.1"), url)


def test_without_the_option_nothing_is_asked(server, tmp_path):
    assert "asks no other one (see --media-host)" in refusal(reader_of(tmp_path), f"{server.address}/clip0.mp4")
    assert server.asked == []
