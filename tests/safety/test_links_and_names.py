"""Links do not lead out of media_root, and names cannot move a terminal's cursor."""

import json
from pathlib import Path

import pytest

from data.errors import UserError, UserErrors, one_line, visible
from data.inspection.check import read_contents
from data.sources.conversation import read_conversations
from data.sources.source import Source
from data.tokens.corpus import Corpus
from tests.source_samples import failure
from tests.tiny_data import turns

NAMES = [
    "a\nerror: b",
    "a\x1b[31mb",
    "a\rb",
    "a\x07",
    "a\u202egpm.exe",
    "a\u2066b\u2069",
    "a\u2028b",
    "a\x9b31m",
    "a\ud83d",
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A media_root with links that lead out of it and others that do not, and a file of what is outside."""
    root = tmp_path / "root"
    for each in (root / "frames", root / "leaky", tmp_path / "outside"):
        each.mkdir(parents=True)
    for path in ("outside/secret.png", "root/in.png", "root/frames/0.png"):
        (tmp_path / path).touch()
    (root / "inner.png").symlink_to("in.png")
    (root / "out.png").symlink_to("../outside/secret.png")
    (root / "lost.png").symlink_to("../outside/none.png")
    (root / "dir").symlink_to("../outside")
    (root / "leaky" / "0.png").symlink_to("../../outside/secret.png")
    (tmp_path / "link").symlink_to("root")
    return root


def write(folder: Path, path: str, kind: str = "image") -> Path:
    record = {kind: path, "conversations": turns(f"<{kind}>What?", "red")}
    (folder.parent / "train.json").write_text(json.dumps([record]))
    return folder.parent / "train.json"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("out.png", "image"), ("lost.png", "image"), ("dir/secret.png", "image"), ("dir", "video"), ("leaky", "video")],
)
def test_a_link_that_leads_out_of_media_root_is_refused(path, kind, folder):
    file = write(folder, path, kind)
    found = failure(file, folder)
    assert (
        "link" in found and f"leads outside of media_root {folder}; move it, or set outside_media_root: true" in found
    )
    assert len(list(read_conversations(Source(file, media_root=folder, outside_media_root=True)))) == 1
    assert (
        len(list(read_conversations(Source(write(folder, f"root/{path}", kind))))) == 1
    )  # no bound, where no root is given


@pytest.mark.parametrize(("path", "kind"), [("in.png", "image"), ("inner.png", "image"), ("frames", "video")])
@pytest.mark.parametrize("root", ["root", "link"])
def test_links_within_media_root_and_to_it_are_followed(path, kind, root, folder):
    assert len(list(read_conversations(Source(write(folder, path, kind), media_root=folder.parent / root)))) == 1


def test_the_files_of_the_hub_s_cache_are_links_to_its_own(tmp_path):
    commit = tmp_path / "datasets--me--clips" / "snapshots" / ("1" * 40)
    (commit / "clips").mkdir(parents=True)
    (blobs := commit.parent.parent / "blobs").mkdir()
    (blobs / "abc").touch()
    (commit / "clips" / "a.png").symlink_to("../../../blobs/abc")
    for root in (commit, commit / "clips"):
        file = write(commit, str(commit / "clips" / "a.png"))
        assert len(list(read_conversations(Source(file, media_root=root)))) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_visible_word_wherever_it_is_shown(name, tmp_path, processor, visual_tokens):
    assert visible(name).isprintable() and str(UserError(name)).isprintable() and one_line(OSError(name)).isprintable()
    assert str(UserErrors([name, name])).count("\n") == 1
    corpus = Corpus(too_long=[name], unreadable={"x": name})
    assert all(line.isprintable() for line in corpus.notices(9))
    record = {"image": name, "conversations": turns("<image>What?", "red")}
    (tmp_path / "train.json").write_text(json.dumps([record, {"conversations": [{"from": name, "value": ""}]}]))
    source = Source(tmp_path / "train.json", media_root=tmp_path / "none")
    contents = read_contents([source], processor.tokenizer, visual_tokens, 4096)
    assert all(problem.reason.isprintable() for problem in contents.problems)


def test_words_of_all_languages_stay_as_they_are():
    for text in ("größer: 映画.mp4", "日本\u3000語", "שלום", "a b\u00a0c", "it's \\n"):
        assert visible(text) == text
