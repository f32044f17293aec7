"""The page about a run against what its folder has: every figure found a second way, and nothing of a user's markup."""

import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest

from data.batches.pixels import decode as decode_here
from data.errors import OutageError
from tests.run_folders import answered, write_evaluation, write_lines, write_run
from train.commands.app import run as reeltune
from train.report import frames as frames_module
from train.report.run_facts import read_run
from train.report.write import REPORT, report_of, write_report

ATTACK = 'What <script>alert("x")</script> & <img src=x onerror=alert(1)> "\' {{ 7 * 7 }}?'
SECTIONS = ["trained", "accuracy", "curves", "answers", "left-out", "time", "versions", "recipe"]
VOID = ("meta", "link", "img", "br")


class Page(HTMLParser):
    """Tags with their attributes, the text, and that of each section."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text, self.sections, self._open = [], "", {}, []
        self.feed(html)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append((tag, dict(attributes).get("id")))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if self._open and self._open[-1][0] == "style":
            return
        self.text += data
        for tag, name in self._open:
            if tag == "section":
                self.sections[name] = self.sections.get(name, "") + data

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Decode without a process of its own, which takes a second to start; tests/integration has that."""
    monkeypatch.setattr(frames_module, "IsolatedDecoder", lambda seconds: decode_here)


@pytest.fixture
def whole(tmp_path, media_folder):
    """A run with everything that a page can have: two sources before and after, clips, bad media, notices."""
    records = [
        {"id": f"q{number}", "video": f"clip{number}.mp4", "conversations": [
            {"from": "human", "value": f"<video>\nQuestion {number}?"}, {"from": "gpt", "value": "up"}]}
        for number in range(3)
    ]  # fmt: skip
    (tmp_path / "held_out.json").write_text(json.dumps(records))
    data = {"train": [{"path": "train.json"}], "eval": [{"path": str(tmp_path / "held_out.json")}]}
    data["eval"][0]["media_root"] = str(media_folder)
    folder = write_run(tmp_path / "my-run", {"data": data})
    clips = [{"media": [str(media_folder / f"clip{number}.mp4")]} for number in range(3)]
    write_evaluation(folder, 0, {
        "moves": [answered(0, "down", **clips[0]), answered(1, "up", **clips[1]), answered(2, "left", **clips[2])],
        "texts": [answered(7, "up"), answered(8, "down")],
    })  # fmt: skip
    write_evaluation(folder, 40, {
        "moves": [answered(0, "up", **clips[0]), answered(1, "down", **clips[1]), answered(2, "up", **clips[2])],
        "texts": [answered(7, "up"), answered(8, "sideways")],
    })  # fmt: skip
    bad = {"file": "/home/me/clips/broken.mp4", "records": ["/home/me/train.json record 3", "record 4"]}
    bad |= {"reason": "'/home/me/clips/broken.mp4' has no frame", "data": "train", "step": 4}
    write_lines(folder / "bad_media.jsonl", [bad, {**bad, "step": 9}])
    (folder / "left_out.json").write_text(json.dumps({"train": ["2 conversations without an answer: a, b"]}))
    return folder


def made(folder) -> Page:
    return Page(report_of(folder).read_text(encoding="utf-8"))


def test_a_whole_run_is_told_with_all_its_figures(whole):
    page = made(whole)
    assert list(page.sections) == SECTIONS
    words = {name: " ".join(text.split()) for name, text in page.sections.items()}
    assert "Trained for 40 steps." in page.text and page.text.count("my-run") >= 1
    assert "4,700 conversations, 700 clips; train.json" in words["trained"] and "me/base" in words["trained"]
    # 1 of 3 and 1 of 2 before, 2 of 3 and 1 of 2 after, each with 0.1 to either side; 2 of 5 and 3 of 5 in all
    assert "moves 3, exact match, loss 2 → 0.0488 33.3 %23.3–43.366.7 %56.7–76.7 +33.3" in words["accuracy"]
    assert "texts 2, exact match, loss 2 → 0.0488 50.0 %40.0–60.050.0 %40.0–60.0 +0.0" in words["accuracy"]
    assert "all questions 5, exact match 40.0 %30.0–50.060.0 %50.0–70.0 +20.0" in words["accuracy"]
    assert "2 became right and 1 became wrong; 1 stayed right, 1 stayed wrong" in words["answers"]
    assert "The best of 3 right answers" in words["answers"] and "The worst of 2 wrong answers" in words["answers"]
    assert "2 conversations without an answer: a, b" in words["left-out"]
    assert "broken.mp4'broken.mp4' has no frametrain.json record 3 and 1 more" in words["left-out"]
    assert words["left-out"].count("broken.mp4") == 2, "a file is told once"
    assert "0:20 in 40 steps, 0.50 s each" in words["time"] and "10% of it, 0:02" in words["time"]
    assert "320, 800 tokens of answers" in words["time"] and "1.0 GiB a process" in words["time"]
    assert "torch2.14.1" in words["versions"] and "learning_rate: 0.002" in page.sections["recipe"]
    assert "/home/me" not in page.text


def test_frames_are_those_of_the_clips_and_every_picture_is_in_the_page(whole):
    page = made(whole)
    pictures = page.of("img")
    assert len(pictures) == 3 * 8 and {each["src"][:23] for each in pictures} == {"data:image/webp;base64,"}
    assert Counter(each["alt"][-9:] for each in pictures) == {f"clip{number}.mp4": 8 for number in range(3)}
    assert len({each["src"] for each in pictures}) > 12


def test_nothing_is_fetched_and_everything_has_a_name(whole):
    page = made(whole)
    assert not {"script", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#") or (tag, attributes["href"]) == ("link", "data:,")
        assert not [name for name in attributes if name.startswith("on")]
    style = report_of(whole).read_text(encoding="utf-8").partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert all(each.get("scope") in ("col", "row") for each in page.of("th"))
    assert all(each.get("alt") for each in page.of("img"))
    told = [each for each in page.of("svg") if each.get("role") == "img"]
    assert len(told) == 4 and told[0]["aria-label"].startswith("Loss: training 0.8 at step 10, 0.2 at step 40")
    targets = {attributes["href"][1:] for attributes in page.of("a")}
    assert targets == set(SECTIONS) and page.of("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


HOSTILE = [
    ATTACK,
    "\u202eevil\u202c שלום ما هو",
    "\x00\x1b[31m\ud83d",
    "x" * 10_000,
    "</style></section><h1>",
    "\n" * 50,
]


def test_words_of_strangers_stay_words(tmp_path):
    folder = write_run(tmp_path / "<b>run", {"model": {"name_or_path": f"a/{ATTACK}"}})
    records = [
        answered(number, text, text if number % 2 else "no", question=text, media=[text], id=text)
        for number, text in enumerate(HOSTILE)
    ]
    write_evaluation(folder, 0, {"<i>source": records})
    write_evaluation(folder, 40, {"<i>source": records})
    write_lines(folder / "bad_media.jsonl", [{"file": text, "records": [text], "reason": text} for text in HOSTILE])
    (folder / "left_out.json").write_text(json.dumps({"train": HOSTILE, ATTACK: [ATTACK]}))
    page = made(folder)
    assert list(page.sections) == SECTIONS
    assert Counter(tag for tag, _ in page.tags)["h1"] == 1
    assert not {"script", "b", "i"} & {tag for tag, _ in page.tags} or Counter(t for t, _ in page.tags)["b"] == 2
    assert {tag for tag, attributes in page.tags if "onerror" in attributes} == set()
    assert 'alert("x")' in page.sections["answers"] and "{{ 7 * 7 }}" in page.text and "<i>source" in page.text
    assert "… (9,400 more letters)" in page.text
    assert (folder / REPORT).stat().st_size < 200_000
    isolated = [attributes for tag, attributes in page.tags if attributes.get("class", "").startswith("question")]
    assert len(isolated) == len(HOSTILE) and all(each["dir"] == "auto" for each in isolated)


def test_what_is_not_there_has_no_section(tmp_path):
    folder = write_run(tmp_path / "run", is_finished=False)
    page = made(folder)
    assert list(page.sections) == ["trained", "curves", "time", "recipe"]
    assert "Not finished: 40 steps so far. The same command goes on." in page.text
    assert "before" not in page.text and len([1 for each in page.of("svg") if each.get("role")]) == 3
    (folder / "metrics.jsonl").unlink()
    assert list(made(folder).sections) == ["trained", "recipe"]


def test_one_evaluation_has_no_before(tmp_path):
    folder = write_run(tmp_path / "run")
    write_evaluation(folder, 40, {"val": [answered(1, "up"), answered(2, "down")]})
    page = made(folder)
    assert "before" not in page.sections["accuracy"] + page.sections["answers"]
    assert "50.0 %" in page.sections["accuracy"] and "answered" in page.sections["answers"]


def test_evaluations_behind_the_last_step_are_of_a_run_that_went_back(tmp_path):
    folder = write_run(tmp_path / "run", num_steps=40)
    for step, said in ((0, "down"), (40, "up"), (80, "sideways")):
        write_evaluation(folder, step, {"val": [answered(1, said)]})
    assert [each.step for each in read_run(folder).evaluations] == [0, 40]
    assert "sideways" not in made(folder).text


def test_clips_that_are_gone_cost_their_frames_alone(whole, tmp_path, media_folder):
    recipe = json.loads((whole / "recipe.yaml").read_text())
    (tmp_path / "elsewhere").mkdir()
    recipe["data"]["eval"][0]["media_root"] = str(tmp_path / "elsewhere")
    records = json.loads((tmp_path / "held_out.json").read_text())
    (tmp_path / "elsewhere" / "clip0.mp4").write_bytes(b"no clip")
    for step in (0, 40):
        file = whole / "evaluations" / str(step) / "moves.jsonl"
        file.write_text(file.read_text().replace(str(media_folder), str(tmp_path / "elsewhere")))
    (whole / "recipe.yaml").write_text(json.dumps(recipe))
    page = made(whole)
    assert page.sections["answers"].count("cannot be had any more") == 3 == len(records) and not page.of("img")
    (tmp_path / "held_out.json").unlink()
    assert made(whole).sections["answers"].count("cannot be had any more") == 3
    (whole / "recipe.yaml").write_text("data: {eval: 7}\n")
    assert "cannot be had any more" in made(whole).sections["answers"]


def test_damaged_files_cost_themselves_alone(whole):
    with open(whole / "metrics.jsonl", "a") as file:
        file.write('{"step": 41, "loss": NaN}\n{"step": "x"}\n[1]\n{"step": 42, "lo')
    (whole / "evaluations" / "40" / "scores.json").write_text("[]")
    (whole / "evaluations" / "x").mkdir()
    (whole / "evaluations" / "20").mkdir()  # begun by an earlier version, without scores
    (whole / "bad_media.jsonl").write_text('{"file": 7}\nnonsense\n')
    (whole / "left_out.json").write_text('{"train": 3}')
    (whole / "provenance.json").write_text('{"step": 41, "counts": 7, "versions": [], "processes": "many"}')
    page = made(whole)
    assert list(page.sections) == ["trained", "accuracy", "curves", "answers", "time", "recipe"]


def test_keys_and_paths_of_this_machine_are_left_out(tmp_path):
    token = "hf_" + "a1B2" * 8
    recipe = {"model": {"name_or_path": "/home/me/models/base"}, "training": {"hub_token": token, "output_dir": "out"}}
    recipe["data"] = {"train": [{"path": "https://me:key@host/train.json?sig=1"}]}
    page = made(write_run(tmp_path / "run", recipe))
    assert token not in page.text and "/home/me" not in page.text and "sig=1" not in page.text
    assert "base" in page.sections["trained"] and "https://host/train.json" in page.sections["trained"]


def test_a_page_stays_small_whatever_its_clips_are(whole, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (8, 160, 160, 3), dtype=np.uint8)
    monkeypatch.setattr(frames_module, "IsolatedDecoder", lambda seconds: lambda item, count: noise)
    monkeypatch.setattr("train.report.page.MAX_BYTES", 60_000)
    page = made(whole)
    assert 0 < len(page.of("img")) < 24
    assert (whole / REPORT).stat().st_size < 60_000 * 4 / 3 + 60_000


def test_a_disk_that_is_away_is_waited_for_once(whole, monkeypatch, caplog):
    asked = []

    def away(item, num_frames):
        asked.append(item.path)
        raise OutageError("the disk is away")

    monkeypatch.setattr(frames_module, "IsolatedDecoder", lambda seconds: away)
    assert made(whole).sections["answers"].count("cannot be had any more") == 3
    assert len(asked) == 1


def test_no_host_is_asked_for_a_report(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *given, **named: asked.append(given) or [])
    monkeypatch.setattr("socket.socket.connect", lambda *given: asked.append(given))
    media = "http://203.0.113.7/clip.mp4"
    record = {"id": "q1", "video": media, "conversations": [
        {"from": "human", "value": "<video>\nQuestion 1?"}, {"from": "gpt", "value": "up"}]}  # fmt: skip
    (tmp_path / "held_out.json").write_text(json.dumps([record]))
    data = {"train": [{"path": "t.json"}], "eval": [{"path": str(tmp_path / "held_out.json")}, {"path": "me/on-hub"}]}
    data["media_cache"] = str(tmp_path / "cache")
    folder = write_run(tmp_path / "run", {"data": data})
    write_evaluation(folder, 40, {"val": [answered(1, "up", media=[media])]})
    assert "cannot be had any more" in made(folder).sections["answers"] and asked == []


def test_the_command_writes_where_it_is_told(whole, tmp_path, capsys):
    reeltune(["report", str(whole)])
    assert capsys.readouterr().out == f"wrote {whole / REPORT}\n"
    reeltune(["report", str(whole), "--out", str(tmp_path / "pages" / "a.html")])
    assert (tmp_path / "pages" / "a.html").read_bytes() == (whole / REPORT).read_bytes()
    with pytest.raises(SystemExit) as end:
        reeltune(["report", str(tmp_path / "nothing")])
    assert end.value.code == 2 and "is no folder of a run: it has no recipe.yaml" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_a_warning(whole, capsys):
    (whole / REPORT).mkdir()
    write_report(whole)
    said = capsys.readouterr().err
    assert said.startswith(f"{whole / REPORT} is not written: ") and said.count("\n") == 1
