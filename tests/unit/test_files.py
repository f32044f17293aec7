"""A file or folder is there completely or not at all, and what killed writers leave can be told from all else."""

import errno
import os
import resource
import stat
import subprocess
import sys

import pytest

from data.errors import UserError
from data.files import (
    UNFINISHED,
    cache_folder,
    check_folder,
    check_outputs,
    refuse_to_replace,
    try_to_write,
    unfinished_of,
    whole_file,
    whole_folder,
    write_output,
    write_whole,
)
from tests.launching import ROOT


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.txt", "new \ud800")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a.txt") as file:
        file.write(b"half of")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "old"
    write_whole(tmp_path / "a.txt", "näu")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.txt", "näu".encode())]


def test_a_folder_comes_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("half")
        assert not (tmp_path / "out").exists()
        raise ZeroDivisionError
    assert names(tmp_path) == []
    (tmp_path / "out").mkdir()  # as a user may have made it
    with whole_folder(tmp_path / "out") as folder:
        (folder / "in").mkdir()
        (folder / "in" / "b").write_text("all")
    assert names(tmp_path) == ["out"] and (tmp_path / "out" / "in" / "b").read_text() == "all"


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").write_text("theirs")
    with pytest.raises(OSError), whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("ours")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["theirs"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "🎞" * 63])
def test_a_name_may_be_as_long_as_the_system_lets_it(name, tmp_path):
    write_whole(tmp_path / name, b"a")
    with whole_folder(tmp_path / "of" / name):
        pass
    assert names(tmp_path) == sorted([name, "of"]) and names(tmp_path / "of") == [name]


@pytest.mark.parametrize("is_flushed", [True, False])
def test_a_full_disk_leaves_what_was_there(is_flushed, tmp_path):
    """A limit on the size of files stands for it."""
    write_whole(tmp_path / "a", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_whole(tmp_path / "a", bytes(10**5), is_flushed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


KILLED = """
import os, signal, sys
from data.files import whole_file, whole_folder
with (whole_folder if sys.argv[2] == "folder" else whole_file)(sys.argv[1]) as begun:
    (begun / "a").write_text("half") if sys.argv[2] == "folder" else begun.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_leaves_is_told_from_all_else(kind, tmp_path):
    theirs = ["out.unfinished", "reeltune-unfinished", ".outer.1f2e3d4c.txt"]
    for name in theirs:
        (tmp_path / name).write_text("theirs")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), kind], cwd=ROOT, check=False)
    (left,) = unfinished_of(tmp_path / "out")
    assert left.name.startswith(".out.") and left.name.endswith(UNFINISHED)
    assert names(tmp_path) == sorted([left.name, *theirs])
    assert unfinished_of(tmp_path / "ou") == unfinished_of(tmp_path / "outer") == []
    assert unfinished_of(tmp_path / "nowhere" / "out") == []


def test_what_cannot_be_written_is_known_before(tmp_path):
    try_to_write(tmp_path / "new" / "a.json")
    assert names(tmp_path / "new") == []
    (tmp_path / "file").write_text("")
    for path, number in ((tmp_path, errno.EISDIR), (tmp_path / "file" / "a", errno.ENOTDIR)):
        with pytest.raises(OSError) as caught:
            try_to_write(path)
        assert caught.value.errno in (number, errno.EEXIST) and caught.value.strerror


def test_a_file_that_is_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.json").write_text("[]")
    (tmp_path / "link.json").symlink_to("in.json")
    refuse_to_replace({"--out": "out.json", "--json": None}, ["in.json", "missing.json"])
    with pytest.raises(UserError, match="^--out: link.json is a file that is read here, and would be lost"):
        refuse_to_replace({"--out": "link.json"}, [tmp_path / "in.json"])
    with pytest.raises(UserError, match=r"^--json: \./a.json is the file of --out, too"):
        refuse_to_replace({"--out": "a.json", "--json": "./a.json"}, [])


@pytest.mark.parametrize("path", [".", "/", "folder", "file/x", "folder/.."])
def test_what_no_file_can_be_called_is_said_before_the_work(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"^--out: cannot write {path}: "):
        check_outputs({"--json": None, "--out": path})
    with pytest.raises(OSError):
        write_whole(path, "x")
    assert names(tmp_path) == ["file", "folder"] and names(tmp_path / "folder") == []


def test_a_relative_cache_would_be_another_one_in_each_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, place in {"": ".cache", "somewhere": ".cache", str(tmp_path / "own"): "own"}.items():
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache_folder("tokens") == f"{tmp_path}/{place}/reeltune/tokens"


def test_what_an_option_names_is_written_or_is_one_line(tmp_path):
    write_output("--json", tmp_path / "new" / "a.json", "{}")
    assert (tmp_path / "new" / "a.json").read_text() == "{}"
    with pytest.raises(UserError, match=r"^--json: cannot write \S+/a\.json/b: "):
        write_output("--json", tmp_path / "new" / "a.json" / "b", "{}")


def test_a_folder_that_cannot_be_made_is_known_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in ("folder", "folder/a/b", "new"):
        check_folder(path)
    for path, number in (
        ("file", errno.ENOTDIR),
        ("file/a/b", errno.ENOTDIR),
        ("a" * 256, errno.ENAMETOOLONG),
        (f"new/{'ä' * 128}/b", errno.ENAMETOOLONG),
        (os.fsdecode(b"a\xff/b"), errno.EILSEQ),
    ):
        with pytest.raises(OSError) as caught:
            check_folder(path)
        assert caught.value.errno == number
    assert names(tmp_path) == ["file", "folder"]
