"""The endpoint under load: its queue, its files, and two hundred requests."""

import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import gradio  # noqa: F401 its first import makes a folder of its own in TMPDIR, which is not ours to remove
import psutil
import pytest

from data.media.reference import Media
from data.web import httpx
from tests.endpoints import MIB, NAME, NUM_TOKENS, Running, asked, data_url, said_in, until, video, wrong_bodies
from tests.warm import Warm
from train.serving.files import Files
from train.serving.opening import key_of
from train.serving.server import KEEP_ALIVE_SECONDS, Limits
from train.talking.talker import Talker

pytestmark = pytest.mark.usefixtures("cold_decoders")


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


def test_clients_let_go_of_a_connection_before_the_server_does():
    assert KEEP_ALIVE_SECONDS > 2 * httpx.Limits().keepalive_expiry


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
