"""The endpoint: what it answers, what it refuses, and what becomes of it meanwhile."""

import base64
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil
import pytest

from data.decoding.isolated_decoder import IsolatedDecoder
from data.media.reference import Media
from data.web import httpx
from tests.documents import PAGES, blocks
from tests.endpoints import NAME, NUM_TOKENS, Running
from tests.warm import Warm
from train.answering.generation import answer
from train.commands import serve as serving
from train.commands.app import run as reeltune
from train.model.build import build_config, build_model
from train.results.loading import greedy
from train.serving.files import Files
from train.serving.opening import key_of
from train.serving.server import TOKEN, Limits
from train.talking.talker import Talker

pytestmark = pytest.mark.usefixtures("cold_decoders")
MIB = 2**20


@pytest.fixture(scope="module")
def model(processor):
    model = build_model(build_config("tiny", processor.tokenizer)).eval()
    model.generation_config = greedy(processor.tokenizer)
    return model


@pytest.fixture(scope="module")
def decoder():
    decoder = IsolatedDecoder(60, is_patient=False)
    yield decoder
    decoder.end()


@pytest.fixture(scope="module")
def talker(model, processor, decoder):
    return Talker(model, processor, num_frames=8, decode=decoder, key=key_of, max_bytes=4 * MIB)


@pytest.fixture(scope="module")
def server(talker, tmp_path_factory):
    with Running(talker, tmp_path_factory.mktemp("files")) as running:
        yield running


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def expect(model, processor):
    """Asks `generate` about some media."""

    def expected(words, *media, num_tokens=NUM_TOKENS):
        content = [*({"type": item.kind} for item in media), {"type": "text", "text": words}]
        prompt = ([{"role": "user", "content": content}], media)
        (said,) = answer(model, processor, [prompt], num_frames=8, max_new_tokens=num_tokens)
        return said

    return expected


def data_url(path, kind="video/mp4"):
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def asked(words, *parts, **options):
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": words}]}],
        **options,
    }


def video(url, **span):
    return {"type": "video_url", "video_url": {"url": url, **span}}


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


def test_the_openai_client_asks_about_a_clip_in_base64(client, media_folder, expect):
    clip = media_folder / "clip0.mp4"
    wanted = expect("What colour is the shape?", Media("video", str(clip)))
    body = asked("What colour is the shape?", video(data_url(clip)))
    whole = client.chat.completions.create(**body)
    assert whole.choices[0].message.content == wanted and whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == NUM_TOKENS and whole.model == NAME
    stream = client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert last.usage.prompt_tokens_details.cached_tokens == last.usage.prompt_tokens - 1


def test_the_openai_client_sends_a_file_and_asks_about_it_twice(client, server, media_folder, expect, visual_tokens):
    clip = media_folder / "clip1.mp4"
    sent = client.files.create(file=clip, purpose="user_data")
    assert (sent.filename, sent.bytes) == ("clip1.mp4", clip.stat().st_size)
    kept = []
    for words, part in [
        ("What colour is the shape?", video(sent.id)),
        ("Which way does it move?", {"type": "file", "file": {"file_id": sent.id}}),
        ("Which way does it move?", video(data_url(clip))),
    ]:
        answered = client.chat.completions.create(**asked(words, part))
        assert answered.choices[0].message.content == expect(words, Media("video", str(clip)))
        kept.append(answered.usage.prompt_tokens_details.cached_tokens)
    assert kept[0] == 0 and visual_tokens.video <= kept[1] < kept[2]
    assert [each.id for each in client.files.list()] == [sent.id]
    assert client.files.retrieve(sent.id).filename == "clip1.mp4"
    assert client.files.delete(sent.id).deleted
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.chat.completions.create(**asked("What?", video(sent.id)))
    with pytest.raises(openai.NotFoundError):  # nothing is read back
        client.files.content(sent.id)


def test_the_openai_client_finds_the_model(client):
    assert [each.id for each in client.models.list()] == [NAME] and client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="no such model"):
        client.models.retrieve("other")


def test_turns_pictures_parts_and_options(client, server, media_folder, model, processor):
    clip, picture = media_folder / "clip2.mp4", media_folder / "picture0.png"
    body = {
        "model": NAME,
        "messages": [
            {"role": "developer", "content": "Describe"},
            {"role": "user", "content": [image(data_url(picture, "image/png")), {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "a square"},
            {"role": "user", "content": [video(data_url(clip), start=0.2, end=0.6)]},
            {"role": "user", "content": "Which way?"},
        ],
        "max_completion_tokens": 4,
    }
    said = client.chat.completions.create(**body).choices[0].message.content
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Describe"}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a square"}]},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Which way?"}]},
    ]
    media = [Media("image", str(picture)), Media("video", str(clip), 0.2, 0.6)]
    (wanted,) = answer(model, processor, [(messages, media)], num_frames=8, max_new_tokens=4)
    assert said == wanted
    drawn = [client.chat.completions.create(**asked("Hello"), temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (each.choices[0].message.content for each in drawn)
    assert first == again != other
    stopped = client.chat.completions.create(**asked("Hello"), stop=[first[:1], "never"], temperature=1.5, seed=1)
    assert stopped.choices[0].message.content == "" and stopped.choices[0].finish_reason == "stop"


def wrong_bodies(clip_url, picture_url):
    """Yield bodies that are wrong in one way each: (name, body, status, words of the message)."""
    sound = asked("What?")
    message = {"role": "user", "content": "What?"}
    over = {"type": "text", "text": "how " * 200_000}
    yield from [
        ("no object", [1], 400, "must be a JSON object"),
        ("no model", {"messages": [message]}, 400, "model must be"),
        ("other model", {**sound, "model": "gpt-4"}, 404, "no model"),
        ("no messages", {"model": NAME, "messages": []}, 400, "messages must be"),
        ("messages of another type", {"model": NAME, "messages": "What?"}, 400, "messages must be"),
        ("a role", {"model": NAME, "messages": [{"role": "tool", "content": "x"}]}, 400, "role must be"),
        ("a role that is a list", {"model": NAME, "messages": [{"role": [], "content": "x"}]}, 400, "role must be"),
        ("the assistant last", {"model": NAME, "messages": [message, {**message, "role": "assistant"}]}, 400, "last"),
        ("a late system", {"model": NAME, "messages": [message, {**message, "role": "system"}]}, 400, "the first"),
        ("no content", {"model": NAME, "messages": [{"role": "user"}]}, 400, "content must be"),
        ("a part", {"model": NAME, "messages": [{"role": "user", "content": [{"type": "audio"}]}]}, 400, "a part of"),
        ("a picture of the assistant's", {"model": NAME, "messages": [
            {"role": "assistant", "content": [image(picture_url)]}, message]}, 400, "the user alone"),
        ("an unknown key", {**sound, "beams": 4}, 400, "'beams' is not known"),
        ("several answers", {**sound, "n": 2}, 400, "n must be 1"),
        ("tools", {**sound, "tools": [{"type": "function"}]}, 400, "tools must be"),
        ("log probabilities", {**sound, "logprobs": True}, 400, "logprobs must be"),
        ("a temperature", {**sound, "temperature": 9}, 400, "temperature: must be"),
        ("a temperature that is a text", {**sound, "temperature": "hot"}, 400, "temperature: must be"),
        ("no tokens", {**sound, "max_tokens": 0}, 400, "max_tokens: must be"),
        ("stops", {**sound, "stop": [1]}, 400, "stop must be"),
        ("stream options", {**sound, "stream_options": {"include_usage": True}}, 400, "stream_options must be"),
        ("a special token", asked("a </s> b"), 400, "special token"),
        ("a placeholder", asked("a <video> b"), 400, "special token"),
        ("too many words", {"model": NAME, "messages": [{"role": "user", "content": [over]}]}, 400, "tokens or more"),
        ("too many clips", asked("What?", *[video(clip_url)] * 40), 400, "tokens or more"),
        ("a path", asked("What?", video("/etc/passwd")), 400, "must be a data: address"),
        ("a path's address", asked("What?", video("file:///etc/passwd")), 400, "must be a data: address"),
        ("a picture's path", asked("What?", image("../../etc/passwd")), 400, "must be a data: address"),
        ("an id that is a path", asked("What?", video("file-../../../etc/passwd")), 404, "no file"),
        ("an address", asked("What?", video("http://127.0.0.1/clip.mp4")), 400, "asks no other one"),
        ("no base64", asked("What?", video("data:video/mp4;base64,???")), 400, "not base64"),
        ("nothing in base64", asked("What?", video("data:video/mp4;base64,")), 400, "is empty"),
        ("words as a clip", asked("What?", video("data:video/mp4;base64,aGVsbG8gd29ybGQ=")), 400, "video_url"),
        ("a clip as a picture", asked("What?", image(clip_url)), 400, "given as image but holds video"),
        ("half a clip", asked("What?", video(clip_url[: clip_url.index(",") + 1001])), 400, "truncated"),
        ("a part behind the end", asked("What?", video(clip_url, start=50)), 400, "lies behind its last frame"),
        ("a part that ends first", asked("What?", video(clip_url, start=2, end=1)), 400, "is not behind start"),
        ("seconds of a picture", asked("What?", {"type": "image_url", "image_url": {"url": picture_url, "start": 1}}),
         400, "must be seconds"),
        ("no address", asked("What?", {"type": "video_url", "video_url": {}}), 400, "must have a url"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def urls(media_folder):
    return data_url(media_folder / "clip0.mp4"), data_url(media_folder / "picture0.png", "image/png")


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
    assert server.post(body, headers={"Origin": "http://evil.example"}).status_code == 403
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


def test_a_full_queue_says_when_to_come_again_and_a_client_that_leaves_gives_its_place_back(processor, model, tmp_path):
    """The first answer waits for the test; the second client leaves; the third finds no place."""
    talker = Talker(model, processor, num_frames=8, key=key_of)
    waiting, go_on = threading.Event(), threading.Event()
    begin = talker.reply

    def slow(*arguments):
        reply = begin(*arguments)
        choose = reply.words.add

        def add(token):
            waiting.set()
            assert go_on.wait(60)
            return choose(token)

        reply.words.add = add
        return reply

    talker.reply = slow
    with Running(talker, tmp_path, Limits(max_requests=2)) as running, ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.post, asked("Hello"))
        assert waiting.wait(60)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/v1/chat/completions", json=asked("Hello"), timeout=0.5)
        until(lambda: running.state()["requests"] == 1)
        with pytest.raises(httpx.ReadTimeout), httpx.Client() as client:
            refused = []

            def ask_meanwhile():
                until(lambda: running.state()["requests"] == 2)
                refused.append(running.post(asked("Hello")))

            asking = threading.Thread(target=ask_meanwhile)
            asking.start()
            client.post(f"{running.url}/v1/chat/completions", json=asked("Hello"), timeout=3)
        asking.join()
        assert refused[0].status_code == 503 and int(refused[0].headers["Retry-After"]) >= 1
        assert refused[0].json()["error"]["code"] == "queue_full"
        go_on.set()
        assert first.result().status_code == 200
        until(lambda: running.state()["requests"] == 0)


def until(condition):
    """Wait until something holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_files_make_room_for_later_ones(tmp_path):
    files = Files(tmp_path, max_bytes=3000, max_file=1500)
    sent = [files.upload(io.BytesIO(bytes([number]) * 1000), f"{number}.mp4", "user_data") for number in range(3)]
    files.hold(sent[0].digest)
    files.upload(io.BytesIO(b"x" * 1000), "x.mp4", "user_data")
    assert [each.name for each in files.all()] == ["x.mp4", "2.mp4", "0.mp4"]  # what is asked about stays
    assert files.num_bytes == 3000 == sum(path.stat().st_size for path in tmp_path.iterdir())
    again = files.upload(io.BytesIO(b"x" * 1000), "y.mp4", "user_data")
    files.remove(again.id)
    assert files.path_of(again.digest).exists()  # another has the same bytes


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


def test_two_hundred_requests_of_eight_clients_and_a_clean_stop(model_folder, media_folder, urls, expect, tmp_path):
    """Half of them are sound, some as streams; memory and disk have limits that all of them together exceed."""
    memory = 2.5 * 2**20
    command = [sys.executable, "-c", "from train.commands.app import main; main()", "serve", str(model_folder)]
    options = ["--port", "0", "--name", NAME, "--max-new-tokens", str(NUM_TOKENS), "--prefix-memory",
               str(memory / 2**30), "--disk", str(2**16 / 2**30), "--max-requests", "16"]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    clips = [media_folder / f"clip{number}.mp4" for number in range(4)]
    questions = ["What colour is the shape?", "Which way does it move?"]
    wanted = {(clip, words): expect(words, Media("video", str(clip))) for clip in clips for words in questions}
    sound = [
        (key, asked(key[1], video(data_url(key[0])), stream=is_streamed))
        for key in wanted
        for is_streamed in (True, False)
    ]
    wrong = [(None, (body, status)) for _, body, status, _ in wrong_bodies(*urls)]
    requests = [*(sound * 7)[:100], *(wrong * 3)[:100]]
    random.Random(0).shuffle(requests)
    with Warm([*command, *options], stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            lines = iter(process.stderr.readline, "")
            url = next(found[1] for line in lines if (found := re.search(r"(http://\S+/v1)", line)))
            threading.Thread(target=lambda: list(lines), daemon=True).start()
            ask = httpx.Client(base_url=url, timeout=120)

            def send(request):
                key, body = request
                if key is None:
                    answered = ask.post("/chat/completions", json=body[0])
                    return (
                        answered.status_code == body[1] and answered.json()["error"]["type"] == "invalid_request_error"
                    )
                answered = ask.post("/chat/completions", json=body)
                return answered.status_code == 200 and said_in(answered) == wanted[key]

            with ThreadPoolExecutor(8) as clients:
                before = list(clients.map(send, requests[:40]))
                size = psutil.Process(process.pid).memory_info().rss
                after = list(clients.map(send, requests[40:]))
            assert Counter(before + after) == {True: 200}
            state = ask.get(url.removesuffix("/v1") + "/health").json()
            assert 0 < state["kept_bytes"] <= memory and state["requests"] == 0
            assert 0 < state["file_bytes"] <= 2**16
            assert psutil.Process(process.pid).memory_info().rss < size + 200 * MIB
            assert len(list(tmp_path.glob(".reeltune-serve*"))) == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


def said_in(answered):
    """Return the text of an answer, be it whole or a stream."""
    if answered.headers["Content-Type"].startswith("application/json"):
        return answered.json()["choices"][0]["message"]["content"]
    *events, last = [line.removeprefix("data: ") for line in answered.text.split("\n\n") if line]
    assert last == "[DONE]"
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_the_documents_code_and_curl_ask_it(talker, media_folder, tmp_path, monkeypatch, capsys, expect):
    """Run what docs/talking.md shows, at the address of a server with the name that it has there."""
    page = PAGES["docs/talking.md"]
    (code,), (curl,) = blocks(page, "python"), [each for each in blocks(page, "text") if each.startswith("curl")]
    clip = tmp_path / "my_data" / "media" / "street.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes((media_folder / "clip3.mp4").read_bytes())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    wanted = [expect(words, Media("video", str(clip))) for words in ("What colour is the bus?", "Where does it go?")]
    with Running(talker, tmp_path / "files") as running:
        running.reader.name = running.endpoint.name = "my-run"
        exec(code.replace("http://127.0.0.1:8000", running.url), {})
        assert capsys.readouterr().out == "".join(f"{said}\n" for said in wanted)
        if shutil.which("curl"):
            first, second = re.split(r"\n(?=curl)", curl.strip().replace("http://127.0.0.1:8000", running.url))
            sent = json.loads(subprocess.run(shlex.split(first), capture_output=True, check=True).stdout)
            second = second.replace("file-ID", sent["id"])
            answered = json.loads(subprocess.run(shlex.split(second), capture_output=True, check=True).stdout)
            assert answered["choices"][0]["message"]["content"] == wanted[0]
