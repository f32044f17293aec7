"""Columns on disk: one process makes them, all map them, and what is not whole is not there."""

import os
import pickle
import threading
import time
from multiprocessing.context import set_spawning_popen
from multiprocessing.reduction import ForkingPickler

import pyarrow as pa
import pytest

from data.files import UNFINISHED
from data.tokens import array_files
from data.tokens.array_files import ArrayFiles
from data.tokens.columns import Column
from tests.safety.kills import files_of_at_most, killed

KEY = {"of": "these"}
NUMBERS = {"B": [0, 255], "H": [7, 2**16 - 1] * 50_000, "i": [-(2**31), 5], "q": [-(2**63)], "empty": []}


def made() -> dict[str, Column]:
    return {name: Column(name if len(name) == 1 else "i", numbers) for name, numbers in NUMBERS.items()}


def numbers_in(columns) -> dict[str, list[int]]:
    return {name: column.view().tolist() for name, column in columns.items()}


def never():
    raise AssertionError("it was there")


def test_what_is_kept_is_found_and_is_arrow(tmp_path):
    files = ArrayFiles(str(tmp_path / "a" / "b"))
    assert numbers_in(files.get(KEY, made)) == numbers_in(files.get(KEY, never)) == NUMBERS
    with pytest.raises(AssertionError):
        files.get({"of": "others"}, never)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [files.path(KEY).name]
    with pa.ipc.open_file(files.path(KEY)) as table:
        (record,) = table.read_all().to_pylist()
    assert record == NUMBERS


def test_a_process_that_is_started_maps_the_file(tmp_path):
    files = ArrayFiles(str(tmp_path))
    files.get(KEY, made)
    found = files.get(KEY, never)
    files.path(KEY).unlink()  # who clears the folder does not disturb those that read
    set_spawning_popen(object())
    try:
        sent = bytes(ForkingPickler.dumps(found))
    finally:
        set_spawning_popen(None)
    assert len(sent) < 2000 and numbers_in(pickle.loads(sent)) == NUMBERS
    assert numbers_in(pickle.loads(pickle.dumps(found))) == NUMBERS


@pytest.mark.parametrize("damage", ["cut", "begun", "empty", "flipped", "other", "pipe"])
def test_what_is_damaged_is_made_anew(damage, tmp_path):
    files = ArrayFiles(str(tmp_path))
    files.get(KEY, made)
    path = files.path(KEY)
    content = path.read_bytes()
    for place in range(5, len(content), len(content) // 5) if damage == "flipped" else [len(content) - 1]:
        new = {
            "cut": content[:place],
            "begun": content[: len(content) // 3],
            "empty": b"",
            "flipped": content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
            "other": b"",
            "pipe": b"",
        }[damage]
        path.write_bytes(new)
        if damage == "other":
            other = ArrayFiles(str(tmp_path / "other"))
            other.get({"of": "others"}, lambda: {"B": Column("B", [1])})
            other.path({"of": "others"}).replace(path)
        if damage == "pipe":
            path.unlink()
            os.mkfifo(path)
        assert numbers_in(files.get(KEY, made)) == NUMBERS
        assert numbers_in(files.get(KEY, never)) == NUMBERS


def test_what_no_longer_holds_is_made_anew(tmp_path):
    files, calls = ArrayFiles(str(tmp_path)), []
    for number in (1, 2):
        found = files.get(KEY, lambda n=number: {"i": Column("i", [n])}, lambda kept: calls.append(kept) or False)
        assert found["i"].view().tolist() == [number]
    assert len(calls) == 2 and files.get(KEY, never)["i"].view().tolist() == [2]
    assert files.get({}, made, is_worth=lambda columns: False) and not files.path({}).exists()


def test_one_makes_it_and_the_others_wait(tmp_path):
    files, calls, found = ArrayFiles(str(tmp_path)), [], []

    def slowly():
        calls.append(1)
        time.sleep(0.3)
        return made()

    threads = [threading.Thread(target=lambda: found.append(files.get(KEY, slowly))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and list(map(numbers_in, found)) == [NUMBERS] * 4


@pytest.mark.parametrize("moment", ["making", "writing"])
def test_a_maker_that_is_killed_leaves_nothing_that_counts(moment, tmp_path, monkeypatch):
    files = ArrayFiles(str(tmp_path))

    def hang(*_):
        (tmp_path / "hangs").touch()
        time.sleep(60)

    with monkeypatch.context() as patch:
        if moment == "writing":
            patch.setattr("data.files.os.fsync", hang)
        assert killed(lambda: files.get(KEY, made if moment == "writing" else hang), (tmp_path / "hangs").exists)
    assert not files.path(KEY).exists()
    assert (moment == "writing") == any(path.name.endswith(UNFINISHED) for path in tmp_path.iterdir())
    assert numbers_in(files.get(KEY, made)) == NUMBERS
    assert {path.name for path in tmp_path.iterdir()} == {files.path(KEY).name, "hangs"}


def test_a_folder_that_takes_nothing_is_told_once(tmp_path, capsys):
    (tmp_path / "file").touch()
    files = ArrayFiles(str(tmp_path / "file"))
    for _ in range(2):
        assert numbers_in(files.get(KEY, made)) == NUMBERS
    assert (
        capsys.readouterr().out == f"cannot keep tokens in {files.folder}: File exists; they are made at each start\n"
    )


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, capsys):
    files = ArrayFiles(str(tmp_path))
    columns = made()
    with files_of_at_most(10_000):
        assert files.get(KEY, lambda: columns) is columns
    assert "File too large; they are made at each start" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_rights_to_write_still_gives_what_it_has(tmp_path, monkeypatch):
    files, columns = ArrayFiles(str(tmp_path)), made()
    files.get(KEY, made)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    for name in ("open", "utime", "unlink"):
        monkeypatch.setattr(array_files.os, name, refuse)
    assert numbers_in(files.get(KEY, never)) == NUMBERS
    assert files.get({}, lambda: columns) is columns


def test_the_longest_unused_make_room(tmp_path, monkeypatch):
    files = ArrayFiles(str(tmp_path))
    for number in range(4):
        files.get({"number": number}, made)
        os.utime(files.path({"number": number}), (number, number))
    size = files.path({"number": 0}).stat().st_size
    files.get({"number": 0}, never)  # used again
    monkeypatch.setattr(array_files, "MAX_BYTES", 3 * size)
    files.get({"number": 4}, made)
    assert [number for number in range(5) if files.path({"number": number}).exists()] == [0, 3, 4]
