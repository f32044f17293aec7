"""An evaluation is killed, or its disk is full: what it leaves is whole answers, and the next one goes on."""

import json
import os
from pathlib import Path

import pytest

from data.errors import UserError
from data.files import UNFINISHED
from data.sources.source import Source
from tests.safety.kills import files_of_at_most, killed, random_shares
from tests.tiny_data import turns
from train.jobs import evaluate as job
from train.results.artifact import open_artifact
from train.results.loading import Loading, load

NAMES = {"out.jsonl", "summary.json"}


@pytest.fixture
def evaluate(model_folder, media_folder, tmp_path, monkeypatch):
    """evaluate(folder) answers all questions into `folder`, as the command does; the clip is decoded in this process,
    and the model is loaded once."""
    loaded = load(open_artifact(str(model_folder)))
    monkeypatch.setattr(job, "load", lambda *_, **__: loaded)
    monkeypatch.setattr(job, "IsolatedDecoder", lambda seconds: None)
    clip = {"video": str(media_folder / "clip0.mp4"), "conversations": turns("<video>\nWhat moves?", "a square")}
    words = [{"conversations": turns(f"How are you, {number}?", "fine")} for number in range(7)]
    (tmp_path / "questions.json").write_text(json.dumps([clip, *words]))

    def run(folder: Path) -> None:
        settings = job.Settings(Loading(), 8, None, 1, 60.0)
        asked = job.conversations_of([Source(tmp_path / "questions.json")])
        job.evaluate_sources(str(model_folder), asked, folder / "out.jsonl", folder / "summary.json", settings)

    return run


@pytest.fixture
def expected(evaluate, tmp_path, capsys) -> bytes:
    """Return the answers of an unbroken evaluation."""
    evaluate(tmp_path / "unbroken")
    return (tmp_path / "unbroken" / "out.jsonl").read_bytes()


def whole_answers(folder: Path, expected: bytes) -> int:
    """Return how many answers are in `folder`, and check that nothing there is half of one, or seems to be all."""
    names = {path.name for path in folder.iterdir() if "reeltune-unfinished" not in path.name}
    assert names <= {*NAMES, ".out.jsonl.unfinished.json"}
    if "summary.json" in names:
        assert json.loads((folder / "summary.json").read_text())["questions"] == expected.count(b"\n")
    if "out.jsonl" not in names:
        return 0
    *lines, rest = (folder / "out.jsonl").read_bytes().split(b"\n")
    assert set(lines) <= set(expected.splitlines())
    if ".out.jsonl.unfinished.json" in names:
        json.loads((folder / ".out.jsonl.unfinished.json").read_text())
    else:  # only then does it speak for itself: it is empty, or complete and in order
        assert (folder / "out.jsonl").read_bytes() in (b"", expected)
    return len(lines)


def test_an_evaluation_killed_at_any_moment_goes_on(evaluate, expected, tmp_path, capsys):
    """The moments are told by the number of answers: the machine may be busy."""
    folder = tmp_path / "killed"
    num_killed, num_kept = 0, [0]

    def has(share):
        out = folder / "out.jsonl"
        return lambda: out.exists() and out.stat().st_size > share * len(expected)

    for share in random_shares(1):
        num_killed += killed(lambda: evaluate(folder), has(share))
        if folder.exists():
            num_kept.append(whole_answers(folder, expected))
            if (folder / "summary.json").exists():  # it had come to its end
                (folder / "summary.json").unlink()
    assert num_killed >= 3 and num_kept == sorted(num_kept), "no answer is lost"
    for left in folder.glob(f".*{UNFINISHED}"):
        if not left.stat().st_size:
            os.utime(left, (0, 0))  # killed before the first byte: for a minute it may be another's that begins
    evaluate(folder)
    assert (folder / "out.jsonl").read_bytes() == expected
    assert {path.name for path in folder.iterdir()} == NAMES


def test_an_evaluation_onto_a_full_disk_is_one_line_and_goes_on(evaluate, expected, tmp_path, capsys):
    """A limit on the size of files stands for it, at five random places of the answers."""
    folder = tmp_path / "full"
    num_kept = [0]
    for share in random_shares(2):
        with pytest.raises(UserError, match="cannot write .*out.jsonl: File too large") as caught:
            with files_of_at_most(int(share * len(expected))):
                evaluate(folder)
        assert "\n" not in str(caught.value)
        num_kept.append(whole_answers(folder, expected))
    assert num_kept == sorted(num_kept) and num_kept[-1] > 0
    evaluate(folder)
    assert (folder / "out.jsonl").read_bytes() == expected
    assert {path.name for path in folder.iterdir()} == NAMES
