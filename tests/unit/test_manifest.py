"""A sealed folder is complete to the last bit, or it is found out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.run_folder.manifest import DELETED, MANIFEST, REPLACED, UNFINISHED, damage, publish, remove, seal, tidy

CONTENTS = {"weights.safetensors": b"\x00\x01\x02" * 50, "state.json": b'{"step": 4}', "global_step4/part": b"z"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "checkpoint-4"
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal(folder)
    return folder


def test_a_sealed_folder_is_sound_until_a_file_is_changed(folder):
    assert damage(folder) is None
    assert json.loads((folder / MANIFEST).read_text())["files"]["global_step4/part"] == {
        "sha256": "594e519ae499312b29433b7dd8a97ff068defcba9755b6d5d00e84c524d67b06",  # of "z"
        "size": 1,
    }
    (folder / "notes.txt").write_text("of the user")
    assert damage(folder) is None
    (folder / "state.json").write_bytes(b'{"step": 5}')
    assert damage(folder) == "state.json was changed: its SHA-256 is another"
    (folder / "state.json").write_bytes(b"")
    assert damage(folder) == "state.json has 0 bytes instead of 11"
    (folder / "state.json").unlink()
    assert damage(folder) == "state.json is missing"


def test_a_folder_without_manifest_is_not_sound(tmp_path):
    assert damage(tmp_path) == f"it has no {MANIFEST}"
    assert damage(tmp_path / "nowhere") == f"it has no {MANIFEST}"


@pytest.mark.parametrize("name", [*CONTENTS, MANIFEST])
@given(data=st.data())
def test_any_flipped_bit_and_any_cut_is_found(name, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed")
    for path, content in CONTENTS.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    seal(folder)
    content = (folder / name).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (bytes(flipped), content[:place]):
        (folder / name).write_bytes(damaged)
        assert damage(folder) is not None
    (folder / name).write_bytes(content)
    assert damage(folder) is None


def test_publish_replaces_what_has_the_name(folder, tmp_path):
    written = tmp_path / ("checkpoint-4" + UNFINISHED)
    written.mkdir()
    (written / "new").write_text("new")
    publish(written, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert [path.name for path in folder.iterdir()] == ["new"]


@pytest.mark.parametrize("killed_before", ["rename", "successor", "removal", "end"])
def test_a_replacement_that_was_killed_leaves_one_sound_folder(killed_before, folder, tmp_path):
    """The states between the operations of `publish`: the old one moved, the new one in place, the old one gone."""
    new, replaced = (tmp_path / f"checkpoint-4{suffix}" for suffix in (UNFINISHED, REPLACED))
    new.mkdir()
    (new / "new").write_text("new")
    seal(new)
    steps = {"rename": 0, "successor": 1, "removal": 2, "end": 3}[killed_before]
    for step in range(steps):
        (lambda: folder.rename(replaced), lambda: new.rename(folder), lambda: remove(replaced))[step]()
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert damage(folder) is None
    assert (folder / "new").exists() == (steps >= 2)


def test_tidy_removes_what_was_never_complete(folder, tmp_path):
    half = [f"checkpoint-8{UNFINISHED}", f"checkpoint-2{DELETED}", f"result{UNFINISHED}"]
    for name in [*half, f"checkpoint-6{REPLACED}{DELETED}"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_tidy_leaves_what_is_not_ours(tmp_path):
    """Names that somebody may give to a folder of their own, and a file by the name of one of ours."""
    theirs = [
        "thesis.unfinished",
        "notes.deleted",
        "old.replaced",
        "checkpoint-best.unfinished",
        "checkpoint-7.deleted",
    ]
    theirs += [f"thesis{UNFINISHED}", f"my-checkpoint-4{DELETED}"]
    for name in theirs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "chapter-1").write_text("x")
    (tmp_path / f"checkpoint-9{UNFINISHED}").write_text("a file")
    before = sorted(tmp_path.rglob("*"))
    tidy(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
