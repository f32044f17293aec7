"""The page against the records, the tensors and the mask, each found a second way; and that it fetches nothing."""

import base64
import io
import json
import re
import runpy
import sys
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.batches.collator import RowCollator
from data.decoding.video import read_frames
from data.inspection.preview import find_spans, mask_picture, show_row
from data.packing.dataset import shared_prefix_rows
from data.packing.layout import RowLayout, dense_mask
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from tests.tiny_data import turns

ROOT = Path(__file__).parents[2]
ATTACK = 'What <script>alert("x")</script> & <img src=x onerror=alert(1)>?'


class Page(HTMLParser):
    """Texts of the elements that matter, and every tag with its attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.marks, self.chips, self._open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append("chip" if dict(attributes).get("class") == "chip" else tag)
        if tag == "mark":
            self.marks.append("")
        if tag in ("img", "meta"):
            self._open.pop()

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        if self._open and self._open[-1] == "mark":
            self.marks[-1] += data
        elif self._open and self._open[-1] == "chip":
            self.chips.append(data)


@pytest.fixture(scope="module")
def preview(model_folder, media_folder, tmp_path_factory):
    """Runs the command in this process; returns its page as text."""
    folder = tmp_path_factory.mktemp("preview")

    def run(records: list[dict], *options: str) -> str:
        (folder / "train.json").write_text(json.dumps(records))
        (folder / "recipe.yaml").write_text(
            f"model: {{name_or_path: {model_folder}, dtype: float32}}\n"
            f"data:\n  train: [{{path: {folder}/train.json, media_root: {media_folder}}}]\n"
            f"  max_length: 1000\n  max_tokens_per_row: 1000\ntraining: {{output_dir: {folder}/out}}\n"
        )
        out = folder / "pages" / "preview.html"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["preview.py", str(folder / "recipe.yaml"), "--out", str(out), *options])
            runpy.run_path(str(ROOT / "scripts/preview.py"), run_name="__main__")
        return out.read_text(encoding="utf-8")

    return run


RECORDS = [
    {"video": "clip0.mp4", "conversations": turns("<video>\nWhich way does it move?", "right", "How?", "left up")},
    {"video": "clip0.mp4", "conversations": turns("<video>\n" + ATTACK, "red & <b>green</b>")},
    {"video": "clip1.mp4", "start": 0.25, "conversations": turns("<video>\nWhat colour is the shape?", "blue")},
    {"image": ["picture0.png", "picture1.png"], "conversations": turns("<image>\n<image>\nCompare these", "small")},
    {"conversations": turns("Hello, how are you?", "fine thanks")},
]
ANSWERS = ["right", "left up", "red & <b>green</b>", "blue", "small", "fine thanks"]


@pytest.mark.parametrize("packing", ["shared_prefix", "none"])
def test_trained_words_are_the_answers_with_their_end(preview, packing):
    page = Page(preview(RECORDS, f"data.packing={packing}"))
    legend, *trained = page.marks
    assert legend == "trained words"
    assert Counter(text.strip() for text in trained) == Counter(answer + "</s>" for answer in ANSWERS)
    chips = {"shared_prefix": 2, "none": 3}[packing]  # the clip of two questions once, or for each
    assert Counter(page.chips[1:]) == {"136 video tokens": chips, "16 image tokens": 2}


def test_a_clip_in_an_answer_is_shown_and_not_trained(preview):
    page = Page(preview([{"video": "clip0.mp4", "conversations": turns("Show a card", "<video>\nHere it is")}]))
    assert "".join(page.marks[1:]).split() == ["Here", "it", "is</s>"] and page.chips[1:] == ["136 video tokens"]


def test_trained_words_are_the_labels_of_the_batch(processor, visual_tokens, media_folder, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(RECORDS))
    samples = load_corpus(
        [Source(tmp_path / "train.json", media_root=media_folder)], processor.tokenizer, visual_tokens, 1000
    ).samples
    rows = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, 32, 400, seed=0)
    for indices in rows.rows(epoch=0):
        batch = RowCollator(processor, visual_tokens)([rows[indices]])
        row = show_row(rows[indices], batch, processor, visual_tokens)
        labels = batch["labels"][batch["labels"] != -100]
        spans = [span for group in row.groups for part in (group.prefix, *group.suffixes) for span in part]
        joined = "".join(span.text for span in spans if span.kind == "trained")
        assert "".join(joined.split()) == "".join(processor.tokenizer.decode(labels).split())
        assert row.num_tokens() == batch["input_ids"].shape[1]
        assert row.num_tokens("trained") == len(labels)
        assert row.num_tokens("image", "video") == sum(
            int((batch["input_ids"] == token).sum()) for token in (processor.image_token_id, processor.video_token_id)
        )


def test_nothing_is_fetched_and_nothing_of_a_question_is_markup(preview):
    html = preview(RECORDS)
    page = Page(html)
    tags = Counter(tag for tag, _ in page.tags)
    assert not {"script", "link", "iframe", "object"} & tags.keys() and "http" not in html
    for _, attributes in page.tags:
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset")]
    assert not re.search(r"url\(|@import", html)
    assert "&lt;script&gt;alert" in html and unescape(html).count(ATTACK.removeprefix("What ")) == 1


def test_so_many_rows_and_not_more(preview):
    html = preview(RECORDS, "--rows", "2", "data.packing=none")
    assert html.count('<section class="row">') == 2 and "2 of 5 rows" in html


def test_a_stream_is_read_as_far_as_it_is_shown(preview):
    stream = ("data.streaming=true", "training.max_steps=9", "data.packing=none", "data.stream_window=2")
    html = preview([*RECORDS[:4], {"video": "clip0.mp4"}], "--rows", "3", *stream)
    assert html.count('<section class="row">') == 3 and "shown: 3 rows" in html
    assert "an epoch: 5 conversations, 5 rows" in preview(RECORDS, "--rows", "9", *stream)


def test_a_word_is_never_torn_where_the_shared_tokens_end(processor, visual_tokens, preview):
    """The prefix may end within a word; each question is shown whole, with the shared part of it marked."""
    records = [{"video": "clip0.mp4", "conversations": turns(f"<video>\n{question}", "red")}
               for question in ("Which way?", "What is it?", "Who?")]  # fmt: skip
    html = preview(records)
    questions = re.findall(r'<li><p class="words">(.*?)</p>', html, re.DOTALL)
    assert [re.sub("<.*?>", "", unescape(text)).partition(" ASS")[0] for text in sorted(questions)] == [
        "What is it?", "Which way?", "Who?"]  # fmt: skip
    shared = [re.match('<span class="shared">(.*?)</span>', text)[1] for text in questions]
    assert set(shared) == {"Wh"}  # which is one token of all three
    assert 'class="shared"' not in preview(records[:1]).partition("<h2>")[2]  # with nobody


def test_frames_have_their_moments_and_clips_their_length(preview):
    page = preview([RECORDS[2]])
    assert "clip1.mp4</b>, 0.25 s to the end, 1.00 s long" in page  # 12 frames at 12 a second
    shown = re.findall(r'<span class="moment[^"]*">([\d.]+) s</span>', page)
    indices = [3 + index * 9 // 8 for index in range(8)]  # of the frames from 0.25 s on
    assert shown == [f"{index / 12:.2f}" for index in indices]


def test_the_evaluation_split_is_shown(preview, tmp_path, media_folder):
    (tmp_path / "eval.json").write_text(json.dumps(RECORDS[3:4]))
    html = preview(RECORDS[2:3], f"data.eval=[{{path: {tmp_path}/eval.json, media_root: {media_folder}}}]")
    assert re.findall("<h2>(.*?)</h2>", html) == ["Training", "Evaluation"]
    training, evaluation = html.partition("<h2>Evaluation</h2>")[::2]
    assert "clip1.mp4" in training and "clip1.mp4" not in evaluation and "picture1.png" in evaluation
    assert "shown: 1 of 1 row, as they are evaluated" in evaluation


LONG = [
    {"conversations": turns("Hello", "fine thanks " * 100)},
    {"image": "picture0.png", "conversations": turns("<image>\nHow?", "red", "Which way?", "left " * 60)},
    {"conversations": turns("How?", "blue")},
    {"messages": [{"role": "user", "content": "Is <b>this</b> shown?"}]},
]


def test_the_longest_cut_and_left_out_conversations_are_shown_whole(preview):
    longest = Page(html := preview(LONG, "--show", "longest", "--rows", "2", "data.max_length=100"))
    assert "of 2 conversations" in html and longest.chips[1:] == ["16 image tokens"]
    assert re.findall(r"<h3>\S+ (record \d): ", html) == ["record 2", "record 3"]

    html = preview(LONG, "--show", "cut", "data.max_length=100")
    assert "cut: 1 conversation" in html and "1 turn cut from the end, to " in html
    cut = "".join(re.findall("<del>(.*?)</del>", html.partition("<h2>")[2], re.DOTALL))
    assert cut.split()[:3] == ["USER:", "Which", "way?"] and cut.split().count("left") == 59
    assert [text.strip() for text in Page(html).marks[1:]] == ["red</s>"]

    html = preview(LONG, "--show", "left-out", "data.max_length=100")
    assert "left out: 2 conversations" in html and "its first answer ends behind max_length 100" in html
    assert "train.json record 4: has no answer, so there is nothing to train" in html
    assert "Is &lt;b&gt;this&lt;/b&gt; shown?" in html and Page(html).marks[1:] == []


def test_the_mask_is_explained_without_its_name(preview):
    html = preview(RECORDS)
    assert "Every token is a line. It sees the tokens whose columns are coloured in it." in html
    assert "attention" not in html.partition("</style>")[2].lower()


def test_a_clip_that_cannot_be_decoded_is_named_and_the_others_are_shown(preview, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(200))
    records = [{"video": str(tmp_path / "bad.mp4"), "conversations": turns("<video>\nHow?", "up")}, RECORDS[4]]
    html = preview(records, "data.train[0].outside_media_root=true", "data.max_bad_media=1")
    assert "bad.mp4" in html and "left out: " in html and [text.strip() for text in Page(html).marks[1:]] == [
        "fine thanks</s>"]  # fmt: skip


def test_pictures_are_what_the_model_gets(preview, media_folder, processor):
    """A clip alone has eight pictures, near those that the processor makes of the file's frames."""
    html = preview([RECORDS[2]])
    uris = re.findall(r'<img alt="frame \d" src="data:image/jpeg;base64,([^"]+)"', html)
    shown = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]).astype(float)
    frames = read_frames(media_folder / "clip1.mp4", 8, start=0.25)
    values = processor.video_processor([frames], return_tensors="np", do_normalize=False)["pixel_values_videos"][0]
    expected = np.moveaxis(values, 1, -1) * 255
    assert shown.shape == expected.shape == (8, 56, 56, 3)
    assert np.abs(shown - expected).mean() < 12  # JPEG, of noise
    assert np.abs(shown - expected[::-1]).mean() > 1.1 * np.abs(shown - expected).mean()


def test_the_mask_is_that_of_the_layout():
    layout = RowLayout(((7, (4, 3, 4)), (4, (3, 2)), (5, ())))
    picture = mask_picture(layout)
    np.testing.assert_array_equal(picture > 0, dense_mask(layout).numpy())
    assert [picture[7, 6], picture[7, 7], picture[11, 7], picture[31, 27]] == [1, 2, 0, 1]
    every_third = mask_picture(RowLayout(((600, (300, 300, 300)),)), max_size=500)
    np.testing.assert_array_equal(every_third > 0, dense_mask(RowLayout(((600, (300, 300, 300)),)))[::3, ::3].numpy())


def test_spans_by_hand(processor, visual_tokens):
    tokenizer = processor.tokenizer
    words = tokenizer("USER: What is it?").input_ids
    answer = tokenizer("red", add_special_tokens=False).input_ids
    ids = [*words, *[processor.image_token_id] * 32, *answer, tokenizer.eos_token_id]
    labels = [-100] * (len(words) + 32) + ids[len(words) + 32 :]
    spans = find_spans(ids, labels, tokenizer, visual_tokens)
    assert [(span.kind, span.num_tokens) for span in spans] == [
        ("masked", len(words)),
        ("image", 16),
        ("image", 16),
        ("trained", len(answer) + 1),
    ]
    assert spans[0].text.endswith("What is it?") and spans[-1].text.strip() == "red</s>"
    assert find_spans(ids, labels, tokenizer, visual_tokens, start=len(words) + 16) == spans[2:]
