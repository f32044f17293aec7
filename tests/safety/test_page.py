"""The page of an endpoint reads no file for anybody, asks no server, and shows itself to those who may see it."""

import base64
import http.client
import os
import socket

import pytest

from data.web import httpx
from tests.endpoints import MIB, Running
from train.model.build import build_config, build_model
from train.page.doors import is_open
from train.page.layout import add_page
from train.results.loading import greedy
from train.serving.guard import PAGE
from train.serving.opening import key_of
from train.serving.server import Limits
from train.talking.talker import Talker

TOKEN = "secret-of-the-tests-0123"
LIMITS = Limits(max_requests=4, max_file=MIB // 4, max_body=MIB // 4, max_files=MIB, seconds=5.0, end_seconds=2)
SECRET = "what nobody may read"


@pytest.fixture(scope="module")
def talker(processor):
    model = build_model(build_config("tiny", processor.tokenizer)).eval()
    model.generation_config = greedy(processor.tokenizer)
    return Talker(model, processor, num_frames=8, key=key_of)


@pytest.fixture(scope="module")
def running(talker, tmp_path_factory):
    """A server with a page, and the addresses that making and asking it connects to."""
    connected, connect = [], socket.socket.connect

    def noted(self, address):
        connected.append(address)
        return connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", noted)
    with Running(talker, tmp_path_factory.mktemp("files"), LIMITS, add_page=add_page) as running:
        running.connected = connected
        yield running
    patch.undo()


def raw(running, method, path, **headers):
    """Ask for a path as it is written: clients tidy .. away."""
    client = http.client.HTTPConnection("127.0.0.1", running.bound.getsockname()[1], timeout=60)
    client.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        client.putheader(name, value)
    client.endheaders()
    answered = client.getresponse()
    return answered.status, answered.read()


def test_the_page_is_there_and_nothing_else_was_asked_for_it(running):
    answered = httpx.get(f"{running.url}/", follow_redirects=True, timeout=60)
    assert answered.status_code == 200 and str(answered.url) == f"{running.url}{PAGE}/"
    assert "frame-ancestors 'none'" in answered.headers["Content-Security-Policy"]
    assert httpx.get(f"{running.url}{PAGE}/theme.css", timeout=60).status_code == 200
    assert httpx.get(f"{running.url}/v1/models", timeout=60).status_code == 200
    assert httpx.get(f"{running.url}/v1/other", timeout=60).json()["error"]["message"]
    hosts = {address[0] for address in running.connected if isinstance(address, tuple)}
    assert hosts == {"127.0.0.1"}


def test_no_file_is_read_through_it(running, tmp_path):
    """Neither by gradio's own routes nor by names that lead out of the folders of its scripts, nor by links."""
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    (tmp_path / "link.png").symlink_to(secret)
    up = "../" * 12
    inner = f"{PAGE}/gradio_api"
    for place in (secret, tmp_path / "link.png", "/etc/passwd", os.path.abspath("pyproject.toml")):
        for path in (
            *(f"{inner}/file={place}", f"{inner}/file/{place}", f"{PAGE}/file={place}", f"/file={place}"),
            *(f"{inner}/file%3D{place}", f"{PAGE}//gradio_api/file={place}", f"{PAGE}/./gradio_api/file={place}"),
            *(f"{PAGE}/static/{up}{place}", f"{PAGE}/assets/{up}{place}", f"{PAGE}/static/{place}"),
            *(f"{PAGE}/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f{place}", f"{PAGE}/assets/%2e%2e/{place}"),
            *(f"{PAGE}/static/x/../../gradio_api/file={place}", f"{PAGE}/svelte/{place}", f"{PAGE}/%2e%2e{place}"),
            *(f"{inner}/proxy=file://{place}", f"{inner}/proxy={running.url}/health", f"{inner}/upload"),
            *(f"{inner}/custom_component/x/client/component/{place}", f"{inner}/stream/a/b/1/playlist-file"),
        ):
            for method in ("GET", "POST"):
                status, content = raw(running, method, path)
                assert status in (403, 404, 405), (path, status)
                assert SECRET.encode() not in content and b"root:" not in content and b"[project]" not in content
    status, content = raw(running, "GET", f"{PAGE}/?deep_link={up}{secret}")
    assert status == 200 and SECRET.encode() not in content


def test_the_routes_of_gradio_that_are_open_are_those_that_the_page_needs(running):
    """A new version's routes stay closed."""
    (mount,) = [route for route in running.app.routes if getattr(route, "path", "") == PAGE]
    described = mount.app.openapi()["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    own = [(route.path.replace(":path}", "}"), getattr(route, "methods", None)) for route in mount.app.routes[:-1]]
    routes |= {(method, path) for path, methods in own for method in methods or ()}
    assert len(routes) > 60 and ("GET", "/gradio_api/file={path_or_url}") in routes
    opened = {(method, path) for method, path in routes if is_open(method, path)}
    assert opened - {("HEAD", path) for _, path in opened} == {
        *(("GET", path) for path in ("/", "/theme.css", "/static/{path}", "/assets/{path}")),
        *(("GET", f"/gradio_api/{path}") for path in ("queue/data", "heartbeat/{session_hash}")),
        *(("POST", f"/gradio_api/{path}") for path in ("queue/join", "cancel", "reset")),
    }


@pytest.mark.parametrize("path", ["/", f"{PAGE}/", f"{PAGE}/assets/x.js", f"{PAGE}/gradio_api/queue/data", "/other"])
def test_a_page_elsewhere_asks_for_the_token_on_every_route(token_server, path):
    def status(*credentials):
        headers = {"Authorization": " ".join(credentials)} if credentials else {}
        return httpx.get(f"{token_server.url}{path}", headers=headers, timeout=60).status_code

    basic = [base64.b64encode(each.encode()).decode() for each in (f"me:{TOKEN}", f"{TOKEN}:", "me:other", "é:é")]
    assert status() == status("Basic", basic[1]) == status("Basic", basic[2]) == status("Basic", basic[3]) == 401
    assert status("Basic", "???") == status("Basic") == status("Bearer", "other") == status("Digest", TOKEN) == 401
    assert status("Basic", basic[0]) == status("Bearer", TOKEN) != 401


@pytest.fixture(scope="module")
def token_server(talker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    with Running(talker, folder, LIMITS, token=TOKEN, add_page=add_page) as running:
        yield running


def test_the_token_of_a_browser_opens_the_page_alone(token_server):
    """A browser sends it with whatever it asks for, so what other programs use asks for another form."""
    url, form = token_server.url, {"files": {"file": b"x"}, "timeout": 60}
    for path in (f"{PAGE}/files", f"{PAGE}/gradio_api/queue/join", "/v1/files"):
        refused = httpx.post(f"{url}{path}", **form)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].split()[0] == ("Bearer" if path.startswith("/v1") else "Basic")
    me = ("me", TOKEN)
    assert httpx.post(f"{url}{PAGE}/files", auth=me, **form).status_code == 200
    assert httpx.post(f"{url}/v1/files", auth=me, **form).status_code == 401
    strange = httpx.post(f"{url}{PAGE}/files", auth=me, headers={"Origin": "http://evil.example"}, **form)
    assert strange.status_code == 403


def test_files_of_a_page_have_the_limits_of_the_endpoint(running):
    def send(size, **headers):
        form = {"file": ("a.mp4", b"x" * size)}
        return httpx.post(f"{running.url}{PAGE}/files", files=form, headers=headers, timeout=60)

    assert send(10).json()["filename"] == "a.mp4"
    assert send(LIMITS.max_file + 1).status_code == send(2 * LIMITS.max_file + MIB).status_code == 413
    assert send(0).status_code == 400
    joined = httpx.post(f"{running.url}{PAGE}/gradio_api/queue/join", content=b"x" * (LIMITS.max_body + 1), timeout=60)
    assert joined.status_code == 413
    answered = httpx.get(f"{running.url}{PAGE}/", headers={"Host": "evil.example"}, timeout=60)
    assert answered.status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {"data": [1, None, "x", [], {}], "fn_index": 1},
        {"data": [], "fn_index": 1},
        {"data": [None], "fn_index": 0, "event_data": [["../../etc/passwd"]]},
        {"data": [None], "fn_index": 0, "event_data": {"id": "/etc/passwd"}},
        {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}] * 5, "fn_index": 1},
        {"data": [], "fn_index": 99},
        {"data": "x", "fn_index": "y"},
    ],
)
def test_what_no_page_sends_is_refused_and_the_server_goes_on(running, body):
    session = os.urandom(4).hex()
    url = f"{running.url}{PAGE}/gradio_api/queue"
    joined = httpx.post(f"{url}/join", json={"session_hash": session, **body}, timeout=60)
    told = joined.text
    if joined.status_code == 200:
        with httpx.stream("GET", f"{url}/data?session_hash={session}", timeout=60) as events:
            for line in events.iter_lines():
                told += line
                if '"process_completed"' in line or '"close_stream"' in line:
                    break
    assert "root:" not in told and "Traceback" not in told and str(running.files.folder) not in told
    assert running.state()["status"] == "ok" and running.state()["requests"] == 0
