"""`reeltune chat` in a pseudo-terminal: keys are pressed, words appear, and Ctrl-D leaves with status 0."""

import time

import numpy as np
import pytest
from PIL import Image

from data.batches.pixels import PixelLoader
from data.media.reference import Media
from tests.distributed.terminal import CTRL_C, CTRL_D, REELTUNE, Terminal
from tests.terminals import left_on_screen
from tests.warm import Warm
from train.answering.generation import answer
from train.results.artifact import open_artifact
from train.results.loading import load
from train.talking.frames import strip
from train.talking.words import Words

NUM_TOKENS = 5
QUESTION = "What colour is the shape?"
PROMPT = "> "
HALF = "\u2580"  # the letter that shows two pixels


@pytest.fixture
def slow_decoding(monkeypatch):
    monkeypatch.setattr("train.talking.talker.Talker.look", lambda self, item: time.sleep(60))


@pytest.fixture
def terminal(model_folder, tmp_path, monkeypatch):
    """A chat whose words come slowly enough to press a key between two of them."""
    add = Words.add

    def slow(self, token):
        time.sleep(0.05)
        return add(self, token)

    monkeypatch.setattr(Words, "add", slow)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    words = ("chat", model_folder, "--max-new-tokens", NUM_TOKENS)
    terminal = Terminal(*REELTUNE, *words, folder=tmp_path, start=Warm)
    yield terminal
    terminal.close()


def enter(terminal, line, words):
    """Type a line, wait until the words and a prompt are shown behind it, and return what is new on the screen."""
    before = len(terminal.shown)
    terminal.press(f"{line}\r".encode())
    wait(terminal, before, words)
    while not terminal.shown.endswith(PROMPT):
        assert terminal._read()
    return terminal.shown[before:]


def wait(terminal, before, words):
    shown, terminal.shown = terminal.shown[:before], terminal.shown[before:]
    terminal.wait_for(words)
    new, terminal.shown = terminal.shown, shown + terminal.shown
    return new


def insist(terminal, keys, words):
    """Press keys, again each five seconds, until the words are shown, and return what is new on the screen.

    A Ctrl-C between the prompt and readline's waiting is not seen before the next key.
    """
    before = len(terminal.shown)
    while words not in terminal.shown[before:]:
        terminal.press(keys)
        soon = time.monotonic() + 5
        while words not in terminal.shown[before:] and time.monotonic() < soon:
            assert terminal._read()
    while not terminal.shown.endswith(PROMPT):
        assert terminal._read()
    return terminal.shown[before:]


def test_a_clip_is_shown_asked_about_and_seen(terminal, model_folder, media_folder, tmp_path):
    clip = Media("video", str(media_folder / "clip0.mp4"))
    model, processor = load(open_artifact(str(model_folder)))
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    (wanted,) = answer(model, processor, [(messages, [clip])], num_frames=8, max_new_tokens=NUM_TOKENS)
    terminal.wait_for(PROMPT)
    terminal.press(b"/vid\t")
    assert "/video " in wait(terminal, 0, "/video ")
    enter(terminal, clip.path, "is shown with the next question")
    said = left_on_screen(enter(terminal, QUESTION, "tokens computed"))
    assert wanted in said and not any("first word" in line and wanted in line for line in said)
    second = enter(terminal, "Which way?", "tokens in")
    assert "first word after" in second
    shown = enter(terminal, "/frames seen.png", "what the model sees of")
    assert shown.count(HALF) > 100 and f"what the model sees of {clip.path}" in shown
    frames = PixelLoader(processor, 8).fitted(clip)
    height = strip(frames).height
    picture = np.asarray(Image.open(tmp_path / "seen.png"))
    assert np.array_equal(picture[-height:], np.asarray(strip(frames)))
    enter(terminal, "/save talk.jsonl", "added to talk.jsonl")
    assert "error: /nothing is no command" in enter(terminal, "/nothing", "/help lists them")
    assert "error: " in enter(terminal, "/video none.mp4", "none.mp4")
    enter(terminal, "/help", "Ctrl-C stops an answer")
    terminal.press(CTRL_D)
    assert terminal.end() == 0 and (tmp_path / "talk.jsonl").read_text().count("\n") == 1


def test_ctrl_c_stops_what_is_done_and_ctrl_d_leaves(slow_decoding, terminal, media_folder, tmp_path):
    (tmp_path / "clip.mp4").write_bytes((media_folder / "clip0.mp4").read_bytes())
    terminal.wait_for(PROMPT)
    enter(terminal, "/set max_tokens 200", "max_tokens 200")
    before = len(terminal.shown)
    terminal.press(b"Hello\r")
    while len(said := left_on_screen(terminal.shown[before:])) < 2 or not said[1]:
        assert terminal._read()
    terminal.press(CTRL_C)
    terminal.press(CTRL_C)  # twice, as people do
    assert "Traceback" not in wait(terminal, before, "stopped")
    assert "Traceback" not in insist(terminal, b"/set\r", "max_tokens 200")  # the second one may take a line along
    before = len(terminal.shown)
    terminal.press(b"/video clip.mp4\r")
    wait(terminal, before, "clip.mp4\r\n")
    time.sleep(0.3)
    terminal.press(CTRL_C)
    assert "Traceback" not in wait(terminal, before, "stopped")  # what takes long to decode
    while not terminal.shown.endswith(PROMPT):
        assert terminal._read()
    assert "Traceback" not in insist(terminal, b"half a line" + CTRL_C, "Ctrl-D leaves")
    enter(terminal, "/set max_tokens 3", "max_tokens 3")
    assert "3 tokens in" in enter(terminal, "And now?", "tokens in")
    terminal.press(CTRL_D)
    assert terminal.end() == 0
