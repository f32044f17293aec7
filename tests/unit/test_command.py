"""The frame around every command, where nobody reads what it prints, or cannot."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.command import run_command
from train.commands.app import run

ROOT = Path(__file__).parents[2]
# A command of its own: it imports nothing heavy, and says more than a pipe holds.
PROGRAM = """
from data.command import run_command
from data.errors import UserError

def main():
    for _ in range(5000):
        print("Wie heißt der Film? 映画 \\ud83d")
    raise UserError("größer: 映画")

run_command(main)
"""


@pytest.fixture
def start(tmp_path):
    def call(stdout="", program=PROGRAM, **environment) -> subprocess.CompletedProcess:
        """Run it in a shell that sends stdout to `stdout`."""
        (tmp_path / "program.py").write_text(program, encoding="utf-8")
        command = f'"$0" program.py {stdout}; exit ${{PIPESTATUS[0]}}'
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        line = ["bash", "-c", command, sys.executable]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, env=environment, timeout=60)

    return call


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_a_terminal_lacks_are_spelled(encoding, start):
    done = start(PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    expected = "größer: 映画".encode(encoding, "backslashreplace")
    assert done.stderr == b"error: " + expected + b"\n"
    assert done.stdout.splitlines()[0] == "Wie heißt der Film? 映画 \ud83d".encode(encoding, "backslashreplace")


def test_a_rank_of_nothing_silences_nobody(start):
    assert start(RANK="1").stderr.startswith(b"error: ")
    assert start(RANK="1", WORLD_SIZE="2").stderr == b""


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"RANK": "abc", "WORLD_SIZE": "2"}, b"RANK is 'abc'"),
        ({"LOCAL_WORLD_SIZE": ""}, b"LOCAL_WORLD_SIZE is ''"),
        ({"MASTER_PORT": "x"}, b"MASTER_PORT is 'x'"),
        ({"WORLD_SIZE": "16"}, b"WORLD_SIZE is 16"),
    ],
)
def test_what_launchers_never_set_is_one_line_before_anything_is_done(variables, named, start):
    done = start(**variables)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert done.stderr.startswith(b"error: " + named)


@pytest.mark.parametrize("error", ["UserError('the file is damaged')", "ImportError('numpy')"])
def test_an_error_that_a_library_makes_of_ctrl_c_is_no_error(error, start):
    program = f"""
import os, signal
from data.command import run_command
from data.errors import UserError

def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise {error}

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is deaf to it
run_command(main)
"""
    done = start(program=program)
    assert (done.returncode, done.stderr) == (130, b"interrupted by Ctrl-C\n")


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_any_locale_will_do(locale, start):
    done = start(LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2 and done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1


def test_a_reader_who_has_seen_enough_is_no_error(start):
    done = start("| head -1")
    assert (done.returncode, done.stderr) == (128 + 13, b"")


def test_what_a_command_says_of_itself_is_not_needed_to_go_on(start, tmp_path):
    """`command 2>&1 | tee log`: Ctrl-C ends tee at once, and this command when it has saved."""
    program = """
from pathlib import Path
from data.command import run_command
from data.progress.bars import SCREEN

def main():
    for number in range(3):
        SCREEN.write("x" * 2**20, is_error=number == 1)
    Path("saved").touch()

run_command(main)
"""
    assert start("2>&1 | true", program).returncode == 0
    assert (tmp_path / "saved").exists()


def test_closed_streams_are_no_error(start):
    done = start(">&-")
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert start("2>&- >/dev/null").returncode == 2


READER = """
import sys
from data.command import run_command
from data.errors import UserError

def main():
    raise UserError(f"{len(sys.stdin.read())} letters")

run_command(main)
"""


@pytest.mark.parametrize(("stdin", "number"), [("<&-", 0), ("< text", 3)])
def test_bytes_that_are_no_letters_and_no_stdin_at_all_are_read(stdin, number, start, tmp_path):
    (tmp_path / "text").write_bytes(b"\xff\xfe\n")
    done = start(stdin, READER, LC_ALL="C.UTF-8", PYTHONIOENCODING="utf-8:strict")
    assert done.stderr.decode() == f"error: {number} letters\n"


def test_a_full_disk_behind_stdout_is_one_line(start):
    program = "from data.command import run_command\nrun_command(lambda: print(1))\n"
    done = start("> /dev/full", program)
    line = b"error: cannot write what is printed: No space left on device; make room, and start it again\n"
    assert (done.returncode, done.stderr) == (2, line)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["evaluate", "m", "--data", "d.json", "--out", "o.jsonl", "--decode-seconds"], "'--decode-seconds'"),
        (["evaluate", "m", "--data", "d.json", "--out", "o.jsonl", "--temperature"], "--temperature"),
        (["chat", "m", "--prefix-memory"], "'--prefix-memory'"),
        (["serve", "m", "--max-upload"], "'--max-upload'"),
        (["serve", "m", "--disk"], "'--disk'"),
        (["check", "{recipe}", "--memory"], "--memory"),
        (["check", "{recipe}", "--seconds"], "--seconds"),
    ],
)
@pytest.mark.parametrize("number", ["nan", "inf", "-1"])
def test_what_is_no_bound_is_refused_before_anything_is_loaded(words, option, number, minimal, capsys):
    with pytest.raises(SystemExit) as end:
        run([*(word.format(recipe=minimal) for word in words), number])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and option in line and line.startswith("error: ")


def test_a_folder_that_is_gone_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as end:
        run(["new-model", "--out", "new", "--shape", "tiny"])
    assert (end.value.code, capsys.readouterr().err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("number", "place", "said"),
    [
        (errno.EACCES, "/a/b", "error: cannot use /a/b: Permission denied; give this user the right to it, or take"),
        (errno.EROFS, "/a/b", "error: cannot use /a/b: Read-only file system; nothing can be written on that file"),
        (errno.EDQUOT, None, "error: cannot write what is printed: Disk quota exceeded; make room, and start it again"),
    ],
)
def test_what_the_system_refuses_anywhere_is_one_line(number, place, said, capfd):
    def refused():
        raise OSError(number, os.strerror(number), place)

    kept = os.dup(1)
    with pytest.raises(SystemExit) as end:
        run_command(refused)
    os.dup2(kept, 1)
    os.close(kept)
    (line,) = capfd.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith(said)


def test_what_the_system_says_of_nothing_that_has_a_name_is_a_bug_of_ours():
    def refused():
        raise OSError(errno.EEXIST, "File exists")

    with pytest.raises(FileExistsError):
        run_command(refused)
