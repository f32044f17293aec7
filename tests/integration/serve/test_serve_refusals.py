"""The endpoint: what it refuses, and where it may not listen."""

import openai
import pytest

from data.web import httpx
from tests.endpoints import MIB, Running, asked, wrong_bodies
from train.commands import serve as serving
from train.commands.app import run as reeltune
from train.serving.server import TOKEN

pytestmark = pytest.mark.usefixtures("cold_decoders")


def test_everything_wrong_is_a_clear_4xx(server, urls, tmp_path):
    for name, body, status, words in wrong_bodies(*urls):
        answered = server.post(body)
        error = answered.json()["error"]
        assert (answered.status_code, words in error["message"]) == (status, True), (name, answered.text)
        assert error["type"] == "invalid_request_error" and set(error) == {"message", "type", "param", "code"}
        assert str(server.files.folder) not in answered.text
        streamed = server.post(
            {**body, "stream": True} if isinstance(body, dict) and name != "stream options" else body
        )
        assert streamed.status_code == status and streamed.json()["error"]["message"] == error["message"], name
    assert not any(blob.holds for blob in server.files._blobs.values()) and server.state()["requests"] == 0


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}", b"\xff"], ids=len)
def test_a_body_that_is_none_is_refused(server, body):
    headers = {"Content-Type": "application/json"}
    answered = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers, timeout=60)
    assert answered.status_code == 400 and "not JSON" in answered.json()["error"]["message"]


def test_routes_methods_and_types_that_are_not_there(server):
    for method, path, status in [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/completions", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/v1/files/file-0", 404),
        ("DELETE", "/v1/files/file-0", 404),
        ("GET", "/v1/files/file-0/content", 404),
        ("POST", "/v1/files", 415),
        ("POST", "/v1/chat/completions", 415),
    ]:
        answered = httpx.request(method, f"{server.url}{path}", timeout=60)
        assert answered.status_code == status and answered.json()["error"]["message"], path
    form = httpx.post(f"{server.url}/v1/files", files={"other": b"x"}, timeout=60)
    assert form.status_code == 400 and "no file named 'file'" in form.json()["error"]["message"]
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    answered = httpx.post(f"{server.url}/v1/files", content=b"--y\r\n", headers=broken, timeout=60)
    assert answered.status_code == 400


def test_what_is_too_large_is_refused_before_it_is_read(server):
    clip = b"\0" * (3 * MIB + 2)
    answered = httpx.post(f"{server.url}/v1/files", files={"file": clip}, timeout=60)
    assert answered.status_code == 413
    barely = httpx.post(f"{server.url}/v1/files", files={"file": clip[: 2 * MIB + 1]}, timeout=60)
    assert (barely.status_code, "more than 2 MiB" in barely.text) == (413, True)
    headers = {"Content-Type": "application/json"}
    pieces = (b" " * MIB for _ in range(3))  # no length is announced
    answered = httpx.post(f"{server.url}/v1/chat/completions", content=pieces, headers=headers, timeout=60)
    assert answered.status_code == 413
    assert server.files.num_bytes < 2 * MIB


def test_pages_of_strangers_are_not_answered(server):
    body = asked("Hello")
    assert server.post(body, headers={"Origin": server.url}).status_code == 200
    for origin in ("http://evil.example", "http://[", "null"):
        assert server.post(body, headers={"Origin": origin}).status_code == 403
    assert server.post(body, headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(f"{server.url}/health", headers={"Host": "evil.example:80"}, timeout=60).status_code == 403


def test_a_token_is_asked_for(talker, tmp_path):
    token = "secret-of-the-tests-0123"
    with Running(talker, tmp_path, token=token) as running:
        for key, status in [(token, 200), ("other", 401), ("é", 401)]:
            headers = {"Authorization": f"Bearer {key}".encode()}
            assert httpx.get(f"{running.url}/v1/models", headers=headers, timeout=60).status_code == status
        assert httpx.get(f"{running.url}/health", timeout=60).status_code == 200
        assert httpx.post(f"{running.url}/v1/files", files={"file": b"x"}, timeout=60).status_code == 401
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=token, max_retries=0)
        assert client.chat.completions.create(**asked("Hello")).choices
        with pytest.raises(openai.AuthenticationError, match="Bearer TOKEN"):
            openai.OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0).models.list()


@pytest.mark.parametrize(
    ("words", "token", "reason"),
    [
        ("--host 0.0.0.0", "", "set a token of 16 letters or more in the environment, REELTUNE_TOKEN"),
        ("--host ::", "", "set a token of 16 letters"),
        ("--host 0.0.0.0", "short", "REELTUNE_TOKEN must be 16 letters or more"),
        ("--host no.such.host.invalid", "", "no address of this machine"),
        ("--host 192.0.2.1", "secret-of-the-tests-0123", "cannot listen at 192.0.2.1"),
    ],
)
def test_where_it_may_not_listen_is_said_before_a_model_is_loaded(words, token, reason, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(SystemExit) as end:
        reeltune(["serve", str(tmp_path), "--port", "0", *words.split()])
    assert end.value.code == 2 and reason in capsys.readouterr().err


def test_the_line_for_missing_libraries_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(SystemExit) as end:
        reeltune(["serve", "some/model"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: reeltune serve needs uvicorn: pip install -e '.[serve]'\n"
