"""The page in a real browser: a clip is dropped, its frames are seen, questions are answered, by the base too."""

import base64
import io
import re
import time

import numpy as np
import pytest
from PIL import Image

from data.batches.pixels import PixelLoader
from data.decoding.isolated_decoder import IsolatedDecoder
from data.media.reference import Media
from tests.browser import BROWSERS, browser, find_browser, opened
from tests.endpoints import LIMITS, NUM_TOKENS, Running
from tests.tiny_adapters import random_adapter
from train.answering.generation import answer
from train.page.examples import Example
from train.page.layout import add_page
from train.results.loading import greedy
from train.serving.opening import key_of
from train.talking.talker import Talker
from train.talking.words import Words

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"no chromium: none of {', '.join(BROWSERS)} is there")

TOKEN = "secret-of-the-tests-0123"
SAID = "[data-testid=user], [data-testid=bot]"  # of gradio's conversations
ATTACK = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
# Drops a file as a person does: gradio's upload is not asked.
DROP = """
([element, name, content]) => {
  const data = new DataTransfer(), bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  data.items.add(new File([bytes], name));
  for (const kind of ["dragenter", "dragover", "drop"])
    element.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}
"""


@pytest.fixture(scope="module")
def started():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def talker(model_folder, processor):
    model = random_adapter(model_folder).eval()
    model.get_base_model().generation_config = greedy(processor.tokenizer)
    decoder = IsolatedDecoder(60, is_patient=False)
    yield Talker(model, processor, num_frames=8, decode=decoder, key=key_of)
    decoder.end()


@pytest.fixture(scope="module")
def running(talker, tmp_path_factory, media_folder):
    def add(app, endpoint):
        with open(media_folder / "clip1.mp4", "rb") as clip:
            digest = endpoint.files.add(clip)
        endpoint.files.hold(digest)
        add_page(app, endpoint, [Example("Which way does it move?", "clip1.mp4", digest)])

    with Running(talker, tmp_path_factory.mktemp("files"), add_page=add) as running:
        yield running


def drop(shown, name, content):
    element = shown.page.locator(".drop")
    element.wait_for()
    element.evaluate(
        f"(element, [name, content]) => ({DROP})([element, name, content])", [name, base64.b64encode(content).decode()]
    )


def ask(shown, words, num_answers=1):
    """Ask, and return the last answers, the model's own first."""
    sides = [f"#side-{who} [data-testid=bot]" for who in ("own", "base")][:num_answers]
    before = [shown.page.locator(side).count() for side in sides]
    shown.page.locator("#question textarea").fill(words)
    shown.page.locator("#question textarea").press("Enter")
    for side, number in zip(sides, before, strict=True):
        shown.page.locator(side).nth(number).wait_for()
    shown.page.locator("#told p", has_text=re.compile("first word after.*" * num_answers, re.DOTALL)).wait_for()
    return [said[-1] for said in bubbles(shown)][:num_answers]


def bubbles(shown):
    """Return what is read on each side that is to be seen."""
    sides = [shown.page.locator(f"#side-{who}") for who in ("own", "base")]
    return [side.locator(SAID).all_inner_texts() for side in sides if side.count() and side.is_visible()]


def frames_in(shown):
    addresses = shown.page.locator("#frames img").evaluate_all("images => images.map(image => image.src)")
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(each.split(",")[1])))) for each in addresses])


def is_quiet(shown, url):
    elsewhere = [each for each in shown.asked if not each.startswith((f"{url}/", "data:", "blob:"))]
    return (shown.said, elsewhere) == ([], [])


def test_a_clip_is_dropped_seen_and_talked_about_on_both_sides(started, running, talker, media_folder):
    clip = Media("video", str(media_folder / "clip0.mp4"))
    first, second = "What colour is the shape?", "Which way does it move?"
    with opened(started, f"{running.url}/") as shown:
        drop(shown, "clip0.mp4", (media_folder / "clip0.mp4").read_bytes())
        shown.page.locator("#frames img").nth(7).wait_for()
        seen = PixelLoader(talker.processor, 8).fitted(clip)
        assert np.array_equal(frames_in(shown), seen.permute(0, 2, 3, 1).numpy())
        assert "clip0.mp4: the 8 frames that the model sees" in shown.page.locator("#frames").inner_text()
        shown.page.get_by_label("Ask the base").check()
        shown.page.locator("#side-base").wait_for()
        asked = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": first}]}]
        said = ask(shown, first, num_answers=2)
        expected = [wanted(talker, asked, clip, is_base) for is_base in (False, True)]
        assert said == expected and said[0] != said[1]
        again = ask(shown, second, num_answers=2)
        for is_base in (False, True):
            turns = [
                *asked,
                {"role": "assistant", "content": [{"type": "text", "text": expected[is_base]}]},
                {"role": "user", "content": [{"type": "text", "text": second}]},
            ]
            assert again[is_base] == wanted(talker, turns, clip, is_base)
        assert [side[::2] for side in bubbles(shown)] == [[f"[clip0.mp4] {first}", second]] * 2
        computed, of_all = re.search(r"([\d,]+) of ([\d,]+) tokens", shown.page.locator("#told").inner_text()).groups()
        assert int(computed) < int(of_all) // 2  # the clip is not computed again
        shown.page.get_by_role("button", name="New conversation").click()
        shown.page.locator("#frames img").first.wait_for(state="detached")
        assert bubbles(shown) == [[], []]
        assert is_quiet(shown, running.url), (shown.said, shown.asked)


def wanted(talker, messages, clip, is_base):
    """Ask `generate`, of the base where the adapter is disabled."""
    model = talker.model
    if is_base:
        with model.disable_adapter():
            return answer(model, talker.processor, [(messages, [clip])], num_frames=8, max_new_tokens=NUM_TOKENS)[0]
    return answer(model, talker.processor, [(messages, [clip])], num_frames=8, max_new_tokens=NUM_TOKENS)[0]


def test_wrong_files_and_questions_are_told_about(started, running, media_folder):
    clip = (media_folder / "clip0.mp4").read_bytes()
    with opened(started, f"{running.url}/") as shown:
        told = shown.page.locator("#told [role=alert]")
        for name, content, reason in [
            ("notes.txt", b"hello world", "notes.txt"),
            ("empty.mp4", b"", "empty.mp4 is empty (0 bytes)"),
            ("half.mp4", clip[: len(clip) // 2], "half.mp4"),
            ("large.mp4", b"x" * (LIMITS.max_file + 1), "large.mp4 has more than 2 MiB"),
            (f"{ATTACK.replace('/', '')}.mp4", b"hello", "onerror"),
        ]:
            drop(shown, name, content)
            told.filter(has_text=reason).wait_for()
            assert str(running.files.folder) not in told.inner_text()
        shown.page.locator("#question textarea").fill("a </s> b")
        shown.page.locator("#question textarea").press("Enter")
        told.filter(has_text="special token").wait_for()
        assert shown.page.locator("#question textarea").input_value() == "a </s> b"  # to be mended
        assert shown.page.locator("#frames img").count() == 0 and bubbles(shown) == [[]]
        assert shown.page.title() == "tiny"
        assert is_quiet(shown, running.url), (shown.said, shown.asked)


def test_what_is_said_is_shown_as_text(started, running, talker, monkeypatch):
    """A model of strangers answers with a picture from elsewhere and a script."""
    evil = f"![x](http://127.0.0.1:9/x.png) {ATTACK} <a href='http://127.0.0.1:9'>x</a>"
    with opened(started, f"{running.url}/") as shown:
        monkeypatch.setattr(Words, "add", lambda self, token: "")
        monkeypatch.setattr(Words, "end", lambda self: evil)
        (said,) = ask(shown, ATTACK)
        assert said == evil and shown.page.title() == "tiny"
        assert shown.page.locator("#side-own img, #side-own script, #side-own a").count() == 0
        assert is_quiet(shown, running.url), (shown.said, shown.asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_in_the_light_and_in_the_dark(started, running, scheme):
    with opened(started, f"{running.url}/", 390, 844, scheme) as shown:
        shown.page.get_by_role("button", name="clip1.mp4").click()
        shown.page.locator("#frames img").nth(7).wait_for()
        shown.page.get_by_label("Ask the base").check()
        assert shown.page.locator("#question textarea").input_value() == "Which way does it move?"
        ask(shown, "word " * 30 + "x" * 200)
        for width in (390, 1280):
            shown.page.set_viewport_size({"width": width, "height": 844})
            assert shown.page.evaluate("document.documentElement.scrollWidth") == width
        front, behind = shown.page.evaluate(
            "[getComputedStyle(document.querySelector('#told p')).color,"
            " getComputedStyle(document.body).backgroundColor].map("
            "color => color.match(/[0-9.]+/g).slice(0, 3).map(Number).reduce((sum, part) => sum + part))"
        )
        assert (front < 300 and behind > 600) if scheme == "light" else (front > 500 and behind < 150)
        assert is_quiet(shown, running.url), (shown.said, shown.asked)


def test_an_answer_is_stopped_and_the_conversation_goes_on(started, running, talker, monkeypatch):
    add = Words.add

    def slow(self, token):
        time.sleep(0.3)
        return add(self, token)

    monkeypatch.setattr(Words, "add", slow)
    with opened(started, f"{running.url}/") as shown:
        shown.page.locator("#question textarea").fill("Hello")
        shown.page.locator("#question textarea").press("Enter")
        shown.page.locator("#side-own [data-testid=bot]").first.wait_for()
        shown.page.get_by_role("button", name="Stop").click()
        while running.service.num_requests:
            shown.page.wait_for_timeout(50)
        monkeypatch.undo()
        assert ask(shown, "And now?")
        assert len(bubbles(shown)[0]) == 4
        assert is_quiet(shown, running.url), (shown.said, shown.asked)


def test_a_browser_asks_a_person_for_the_token(started, talker, tmp_path, media_folder):
    with Running(talker, tmp_path, token=TOKEN, add_page=add_page) as running:
        me = {"username": "me", "password": TOKEN}
        with opened(started, f"{running.url}/", http_credentials=me) as shown:
            drop(shown, "clip0.mp4", (media_folder / "clip0.mp4").read_bytes())
            shown.page.locator("#frames img").nth(7).wait_for()
            assert ask(shown, "Hello")
