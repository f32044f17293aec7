"""The endpoint: what it answers to OpenAI's client, and to the code of the documents."""

import json
import re
import shlex
import shutil
import subprocess

import openai
import pytest

from data.media.reference import Media
from tests.documents import PAGES, blocks
from tests.endpoints import NAME, NUM_TOKENS, Running, asked, data_url, image, video
from train.answering.generation import answer

pytestmark = pytest.mark.usefixtures("cold_decoders")


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
