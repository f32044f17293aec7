"""The options of `reeltune serve` about its page: examples, and what is said where there is no page."""

import io
import json

import pytest

from train.commands import serve as serving
from train.commands.app import run as reeltune
from train.page.examples import keep_examples, read_examples
from train.serving.files import Files

MIB = 2**20


def test_examples_are_kept_whatever_clients_send_or_remove(tmp_path, media_folder):
    questions = [("video", "clip0.mp4", "What colour?"), ("video", "clip0.mp4", "Which way?")]
    records = [
        {kind: name, "conversations": [{"from": "human", "value": f"<{kind}>\n{words}"}, {"from": "gpt", "value": "x"}]}
        for kind, name, words in [*questions, ("image", "picture0.png", "What?")]
    ]
    path = tmp_path / "examples.json"
    path.write_text(json.dumps(records))
    found = read_examples(str(path), str(media_folder))
    assert [(item.kind, words) for item, words in found] == [("video", "What colour?"), ("image", "What?")]
    files = Files(tmp_path / "files", max_bytes=2 * MIB, max_file=MIB)
    files.folder.mkdir()
    kept = keep_examples(found, files)
    upload = files.give_id(kept[0].digest, kept[0].name, "user_data")
    assert upload.name == "clip0.mp4"
    files.remove(upload.id)
    for number in range(3):
        files.upload(io.BytesIO(bytes([number]) * MIB), f"{number}.mp4", "user_data")
    assert files.path_of(kept[0].digest).read_bytes() == (media_folder / "clip0.mp4").read_bytes()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--examples", "none.json"], "none.json"),
        (["--examples", "none.json", "--no-page"], "--examples are shown on the page"),
    ],
)
def test_examples_that_cannot_be_shown_are_said_before_a_model_is_loaded(options, reason, capsys):
    with pytest.raises(SystemExit) as end:
        reeltune(["serve", "no/model", *options])
    assert end.value.code == 2 and reason in capsys.readouterr().err


def test_without_gradio_a_line_says_what_adds_the_page(monkeypatch, caplog):
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with caplog.at_level("INFO"):
        assert serving.page_of(True, None, None) is None
    assert caplog.messages == ["no page: it needs gradio, pip install -e '.[ui]'; --no-page leaves this line out"]
