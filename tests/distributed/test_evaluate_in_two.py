"""Two processes evaluate as one does: the same file and figures, one voice, and a clean end."""

import io
import json
import os
import signal
from contextlib import redirect_stderr, redirect_stdout

import pytest

from data.errors import UserError
from tests.distributed.forked import in_two
from tests.launching import ROOT
from tests.run_folders import without_clock
from train.answering import exchange as exchanging
from train.commands import app
from train.commands.evaluate import evaluate as command
from train.ranks import launch as launching
from train.results.answer_file import AnswerFile
from train.results.evaluation import Kept


def run(*arguments) -> tuple[int, str, str]:
    """Return (exit status, stdout, stderr) of the command in this process."""
    out, errors, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            app.run(list(map(str, arguments)), "evaluate.py", command)
        except SystemExit as end:
            status = end.code or 0
    return status, out.getvalue(), errors.getvalue()


@pytest.fixture
def asked(model_folder, mixed_file, tmp_path):
    """Return the command line of an evaluation into a folder."""

    def arguments(folder, *more):
        paths = "--out", tmp_path / folder / "out.jsonl", "--json", tmp_path / folder / "scores.json"
        return model_folder, "--data", mixed_file, *paths, "--max-new-tokens", 3, "--batch-size", 2, *more

    return arguments


@pytest.fixture
def one(asked, tmp_path):
    """Return the file and the figures of one process."""
    assert run(*asked("one"))[0] == 0
    return result(tmp_path / "one")


def result(folder):
    scores = json.loads((folder / "scores.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["out.jsonl", "scores.json"]
    return (folder / "out.jsonl").read_bytes(), without_clock(scores)


def test_the_file_and_the_figures_are_those_of_one(asked, one, tmp_path):
    first, second = in_two(lambda rank: run(*asked("two")))
    assert first[0] == second[0] == 0
    assert first[1].count("answers correct") == 1 and second[1:] == ("", "")
    assert result(tmp_path / "two") == one


def test_a_signal_to_one_process_ends_both_and_the_next_start_goes_on(asked, one, tmp_path, monkeypatch):
    monkeypatch.setattr(exchanging, "EXCHANGE_SECONDS", 0.01)
    append = Kept.append

    def then_signalled(self, answers):
        append(self, answers)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Kept, "append", then_signalled)  # the second process keeps no file
    first, second = in_two(lambda rank: run(*asked("two")))
    assert first[0] == second[0] == 128 + signal.SIGTERM
    assert "SIGTERM: " in first[1] and "the same command goes on with the answers that are kept" in first[1]
    answered = (tmp_path / "two/out.jsonl").read_bytes().count(b"\n")
    assert 0 < answered < one[0].count(b"\n")
    assert f"{answered} of " in run(*asked("two"))[1]
    assert result(tmp_path / "two") == one


def test_a_full_disk_of_the_first_ends_both_in_one_line(asked, monkeypatch):
    def full(self, answers):
        raise UserError(f"cannot write {self.path}: no room")

    monkeypatch.setattr(AnswerFile, "append", full)
    first, second = in_two(lambda rank: run(*asked("two")))
    assert first[0] == second[0] == 2
    assert "error: cannot write" in first[2] and second[1:] == ("", "")


def test_a_model_that_is_spread_is_refused(asked, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    status, _, error = run(*asked("two"))
    assert status == 2 and "each process answers with the whole model: launch with multi_gpu.yaml" in error


def test_the_command_starts_processes_itself(asked, monkeypatch):
    """Starting them is tested with training's; here, what is started, and that those who are started go on alone."""
    started = []

    class Noted(launching.Ranks):
        def start(self, command, environment):
            started.append((command, environment["RANK"], environment["WORLD_SIZE"]))

    monkeypatch.setattr(launching, "Ranks", Noted)
    monkeypatch.setenv("RANK", "0")  # left over from something else, without WORLD_SIZE
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    arguments = [*map(str, asked("two")), "--hardware", str(ROOT / "accelerate_configs/cpu_2.yaml")]
    assert run(*arguments)[0] == 0
    assert [(command[1:], *places) for command, *places in started] == [
        ([str(ROOT / "scripts/evaluate.py"), *arguments], str(rank), "2") for rank in range(2)
    ]
