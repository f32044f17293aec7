"""An endpoint of this process, while a test asks it, and what is asked."""

import base64
import json
import threading
import time

import uvicorn

from data.web import httpx
from train.serving.endpoint import Endpoint
from train.serving.files import Files
from train.serving.questions import Reader
from train.serving.server import Limits, guarded, listen
from train.serving.service import Service
from train.talking.sampling import Sampling

NUM_TOKENS = 6
NAME = "tiny"
MIB = 2**20
LIMITS = Limits(max_requests=8, max_file=2 * MIB, max_body=MIB, max_files=4 * MIB, seconds=5.0, end_seconds=2)


class Running:
    """An endpoint in this process; add_page: what adds a page to it."""

    def __init__(self, talker, folder, limits=LIMITS, token=None, host="127.0.0.1", add_page=None):
        self.files = Files(folder, limits.max_files, limits.max_file)
        self.service = Service(talker, limits.max_requests)
        self.bound = listen(host, 0, token)
        self.url = f"http://127.0.0.1:{self.bound.getsockname()[1]}"
        self.reader = Reader(NAME, self.files, Sampling(max_tokens=NUM_TOKENS))
        self.endpoint = Endpoint(self.service, self.reader, self.files)
        self.app = self.endpoint.app()
        if add_page:
            add_page(self.app, self.endpoint)
        app = guarded(self.app, token, host != "127.0.0.1", limits)
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=2)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.bound],))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.bound.close()

    def post(self, body, **options):
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60, **options)

    def state(self):
        return httpx.get(f"{self.url}/health", timeout=60).json()


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


def until(condition):
    """Wait until something holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def said_in(answered):
    """Return the text of an answer, be it whole or a stream."""
    if answered.headers["Content-Type"].startswith("application/json"):
        return answered.json()["choices"][0]["message"]["content"]
    *events, last = [line.removeprefix("data: ") for line in answered.text.split("\n\n") if line]
    assert last == "[DONE]"
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)
