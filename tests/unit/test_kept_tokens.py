"""Tokens and rows that are kept on disk: the second start is the first, and what has changed is noticed."""

import base64
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data.errors import UserError
from data.media import locate
from data.media.reference import Downloads
from data.packing.dataset import shared_prefix_rows, single_sample_rows
from data.sources.source import Source
from data.tokens import corpus as corpora
from data.tokens import kept
from data.tokens.array_files import default_folder
from data.tokens.corpus import load_corpus
from data.tokens.shares import Encoding
from tests.source_samples import write_tar
from tests.tiny_data import turns, write_clip
from train.run_folder.bad_media import imprint_now


@pytest.fixture(autouse=True)
def few_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "MIN_BYTES", 0)
    monkeypatch.setattr(corpora, "MIN_KEPT", 1)


RECORDS = [
    {"video": f"clip{number}.mp4", **({"start": 0.1} if number % 2 else {}),
     "conversations": turns(f"<video>\nWhat colour is {word}?", "red", *(["Which?", "left <image>"] * (number % 2)))}
    | ({"image": "picture0.png"} if number % 2 else {})
    for number in range(4) for word in ("the shape", "it", "a small square")
] + [
    {"image": ["picture1.png", "picture2.png"], "conversations": turns("<image>\n<image>\nCompare", "red")},
    {"conversations": turns("Hello " * 200, "too long")},
    {"conversations": [*turns("Hello"), {"from": "gpt", "value": "fine", "weight": 0}]},
    {"conversations": turns("Hello", "")},
    {"conversations": turns("Hello", "fine thanks", "Describe" * 90, "cut")},
    {"video": "missing.mp4", "conversations": turns("What?", "red")},
    {"messages": [{"role": "system", "content": "Hello"}, {"role": "user", "content": "How é🎞?"},
                  {"role": "assistant", "content": "fine"}]},
]  # fmt: skip


@dataclass
class Start:
    """One start of a run: what it gives, in plain values, and how many conversations it tokenised."""

    source: Source
    processor: object
    visual_tokens: object
    max_length: int = 170
    system_prompt: str | None = "Be brief."
    max_bad_media: float = 1
    packing: str = "shared_prefix"
    seed: int = 0
    num_tokenised: int = field(default=0, init=False)

    def __call__(self):
        locate.is_folder.cache_clear()  # a start is a new process
        locate.names_in.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            own, encode = [], Encoding.encode
            patch.setattr(
                Encoding, "encode", lambda self, all: (own.extend(each) or each for each in encode(self, all))
            )
            try:
                return self._facts()
            finally:
                self.num_tokenised = len(own)

    def _facts(self):
        tokenizer = self.processor.tokenizer
        limits = self.max_length, self.system_prompt, self.max_bad_media
        try:
            corpus = load_corpus([self.source], tokenizer, self.visual_tokens, *limits)
        except UserError as problem:
            return str(problem)
        if self.packing == "none":
            rows = single_sample_rows(corpus.samples, self.visual_tokens, self.seed)
        else:
            rows = shared_prefix_rows(corpus.samples, tokenizer, self.visual_tokens, 2, 700, self.seed)
        return {
            "samples": list(corpus.samples),
            "labels": [sample.labels.tolist() for sample in corpus.samples],
            "left out": (corpus.too_long, corpus.unanswered, corpus.unreadable, corpus.notices(self.max_length)),
            "longest": corpus.longest,
            "kinds": rows.kinds(),
            "media": rows.media(),
            "files": rows.num_media_files(),
            "groups": list(rows.groups),
            "rows": [list(rows.rows(epoch)) for epoch in (0, 1)],
            "fingerprint": rows.fingerprint(imprint_now),
        }


@pytest.fixture
def media(media_folder, tmp_path) -> Path:
    """A folder of media that tests may change."""
    folder = tmp_path / "media"
    folder.mkdir()
    for path in media_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def start(processor, visual_tokens, media, tmp_path):
    def write(records=RECORDS, **about) -> Start:
        path = tmp_path / "train.json"
        path.write_text(json.dumps(records))
        source = Source(path, media_root=about.pop("media_root", media))
        return Start(source, processor, visual_tokens, **about)

    return write


def uncached(start: Start):
    """Return what a start gives that keeps nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "MIN_BYTES", 2**40)
        return start()


@pytest.mark.parametrize("packing", ["shared_prefix", "none"])
@pytest.mark.parametrize("max_length", [170, 4096])
def test_the_second_start_is_the_first(packing, max_length, start, tmp_path):
    begin = start(packing=packing, max_length=max_length)
    plain = uncached(begin)
    assert not (tmp_path / "cache").exists()
    first = begin()
    assert begin.num_tokenised == len(RECORDS)
    assert len(list(Path(default_folder()).glob("*.arrow"))) == (6 if packing == "shared_prefix" else 3)
    second = begin()
    assert begin.num_tokenised == 0
    assert first == second == plain
    too_long, unanswered, unreadable, notices = plain["left out"]
    assert len(too_long) == (1 if max_length == 170 else 0) and len(unanswered) == 1 and len(unreadable) == 1
    assert len(notices) == (4 if max_length == 170 else 2) and "missing.mp4' cannot be read" in notices[-1]


def test_each_setting_has_tokens_of_its_own(start, processor, monkeypatch):
    facts = start()()
    for about in ({"max_length": 150}, {"system_prompt": None}, {"system_prompt": "Be long."}):
        begin = start(**about)
        assert begin() == uncached(begin) != facts
    begin = start(seed=1)
    assert begin() == uncached(begin) != facts and begin.num_tokenised == len(RECORDS)
    begin()
    assert begin.num_tokenised == 0
    with monkeypatch.context() as patch:
        patch.setattr(processor.tokenizer, "chat_template", "{{ bos_token }}" + processor.tokenizer.chat_template)
        begin = start()
        assert begin() == uncached(begin) != facts
        patch.setattr(processor.tokenizer, "chat_template", processor.tokenizer.chat_template + "{# strftime_now #}")
        begin()
        begin()
        assert begin.num_tokenised == len(RECORDS)
    with monkeypatch.context() as patch:
        patch.setattr(kept, "code_digest", lambda: "another")
        begin = start()
        assert begin() == facts and begin.num_tokenised == len(RECORDS)
    assert start()() == facts


def test_a_file_that_changes_behind_its_size_and_time_is_noticed(start):
    begin = start()
    begin()
    path = Path(begin.source.path)
    before, text = path.stat(), path.read_text()
    path.write_text(text.replace("Compare", "Describ"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert begin() == uncached(begin)
    assert begin.num_tokenised == len(RECORDS)


def test_a_shard_that_changes_is_noticed(processor, visual_tokens, media, tmp_path):
    clip = (media / "clip0.mp4").read_bytes()

    def write(word: str):
        record = {"conversations": turns("<video>\nWhat?", word)}
        write_tar(tmp_path / "train.tar", {"a.json": json.dumps(record).encode(), "a.mp4": clip})

    begin = Start(Source(tmp_path / "train.tar"), processor, visual_tokens)
    write("red")
    first = begin()
    assert begin() == first and begin.num_tokenised == 0
    before = os.stat(tmp_path / "train.tar")
    write("cut")
    os.utime(tmp_path / "train.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(tmp_path / "train.tar").st_size == before.st_size
    assert begin() == uncached(begin) != first


def test_media_are_looked_at_at_each_start(start, media):
    begin = start()
    first = begin()
    write_clip(media / "missing.mp4", 9)
    mended = begin()
    assert mended == uncached(begin) and mended["left out"][2] == {}
    (media / "clip2.mp4").write_bytes((media / "clip2.mp4").read_bytes()[:300])
    broken = begin()
    assert begin.num_tokenised == 0
    assert broken == uncached(begin) and "clip2.mp4' is truncated" in broken["left out"][3][-1]
    assert broken["fingerprint"] != first["fingerprint"]
    (media / "clip1.mp4").unlink()
    lost = begin()
    assert lost == uncached(begin) and len(lost["left out"][2]) == 2
    begin.max_bad_media = 0
    assert begin() == uncached(begin)
    assert "clip1.mp4' cannot be read" in begin()


def test_a_clip_that_becomes_a_folder_of_pictures_is_read_as_one(start, media):
    begin = start()
    begin()
    picture = (media / "picture0.png").read_bytes()
    (media / "clip0.mp4").unlink()
    (media / "clip0.mp4").mkdir()
    (media / "clip0.mp4" / "1.png").write_bytes(picture)
    assert begin() == uncached(begin)
    assert any(item.place is not None for item in begin()["media"])


def test_a_link_that_leads_out_is_refused_at_the_second_start(start, media, tmp_path):
    begin = start()
    begin()
    (media / "clip0.mp4").rename(tmp_path / "clip.mp4")
    (media / "clip0.mp4").symlink_to(tmp_path / "clip.mp4")
    assert "outside of media_root" in begin() == uncached(begin)


def test_the_first_of_several_folders_that_has_a_file_is_taken(start, media, tmp_path):
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    begin = start(media_root=[earlier, media])
    first = begin()
    assert begin() == first == uncached(begin) and begin.num_tokenised == len(RECORDS)
    assert begin() == first
    (earlier / "clip3.mp4").write_bytes((media / "clip0.mp4").read_bytes())
    assert begin() == uncached(begin) != first
    write_clip(media / "missing.mp4", 9)
    assert begin() == uncached(begin)


def test_a_clip_that_is_named_without_its_ending_is_found_when_it_comes(start, media):
    records = [{"video_id": name, "q": "What?", "a": "red"} for name in ("clip0", "new")]
    begin = start(records)
    assert "new' cannot be read" in begin()["left out"][3][-1]
    write_clip(media / "new.mkv", 9)
    assert begin() == uncached(begin)
    assert begin()["left out"][2] == {}


def test_bytes_in_records_come_again_when_their_file_is_lost(processor, visual_tokens, media, tmp_path):
    content = base64.b64encode((media / "picture0.png").read_bytes()).decode()
    (tmp_path / "train.json").write_text(json.dumps([
        {"messages": [{"role": "user", "content": [{"type": "image", "bytes": content}]},
                      {"role": "assistant", "content": "red"}]}]))  # fmt: skip
    begin = Start(Source(tmp_path / "train.json", downloads=Downloads(str(tmp_path / "got"))), processor, visual_tokens)
    first = begin()
    (path,) = (each for each in (tmp_path / "got").rglob("*") if each.is_file())
    path.unlink()
    assert begin() == first and path.exists()


def test_a_wrong_record_is_told_each_time_and_nothing_is_kept(start):
    begin = start([*RECORDS, {"what": "is this"}])
    assert "record 20: needs" in begin() == begin()
    assert list(Path(default_folder()).iterdir()) == []


def test_small_data_sets_write_nothing(start, monkeypatch, tmp_path):
    monkeypatch.setattr(corpora, "MIN_KEPT", len(RECORDS) + 1)
    begin = start()
    assert begin() == begin() == uncached(begin)
    assert list(Path(default_folder()).iterdir()) == []


def test_of_two_starts_at_once_one_tokenises(start, tmp_path, monkeypatch):
    begin = start()
    expected, encode = uncached(begin), Encoding.encode

    def slowly(encoding, found):
        with open(tmp_path / "log", "a") as log:
            log.write("tokenises\n")
        time.sleep(0.5)
        return encode(encoding, found)

    monkeypatch.setattr(Encoding, "encode", slowly)
    child = os.fork()
    if not child:
        try:
            os._exit(begin() != expected)
        finally:
            os._exit(2)
    assert begin() == expected
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "log").read_text() == "tokenises\n"


def test_a_file_that_changes_while_it_is_read_is_not_kept_as_the_earlier_one(start, monkeypatch):
    begin = start()
    path, conversations = Path(begin.source.path), Encoding.conversations
    before = path.read_bytes()

    def from_another(encoding, *chosen):
        path.write_text(json.dumps(RECORDS[:3]))
        return conversations(encoding, *chosen)

    with monkeypatch.context() as patch:
        patch.setattr(Encoding, "conversations", from_another)
        assert len(begin()["samples"]) == 3
    path.write_bytes(before)
    assert begin() == uncached(begin)
