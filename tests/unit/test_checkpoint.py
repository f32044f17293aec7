"""The checkpoint that a run continues from, and those that stay."""

import pytest

from data.errors import UserError
from data.files import UNFINISHED
from train.run_folder.checkpoint import checkpoints, find_checkpoint, put_aside, rotate
from train.run_folder.manifest import seal


def make(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text(str(step))
    (checkpoint / "optimizer.pt").write_text(str(step))
    seal(checkpoint)
    return checkpoint


@pytest.fixture
def folder(tmp_path):
    for step in (4, 8, 12, 100):
        make(tmp_path, step)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_sound_one_by_number(folder):
    assert find_checkpoint("auto", folder) == (str(folder / "checkpoint-100"), [])
    assert find_checkpoint("never", folder) == (None, [])
    assert find_checkpoint("auto", folder / "nothing") == (None, [])


def test_unsound_ones_move_aside_and_are_named(folder):
    (folder / "checkpoint-100" / "weights").write_text("101")
    (folder / "checkpoint-12" / "manifest.json").unlink()
    (folder / "checkpoint-4" / "weights").unlink()  # older than the one that is taken: nobody looks
    found, notices = find_checkpoint("auto", folder)
    assert found == str(folder / "checkpoint-8")
    assert notices == [
        f"{folder}/checkpoint-100: weights was changed: its SHA-256 is another; moved to "
        f"{folder}/unsound/checkpoint-100",
        f"{folder}/checkpoint-12: it has no manifest.json; moved to {folder}/unsound/checkpoint-12",
    ]
    assert (folder / "unsound" / "checkpoint-100" / "weights").read_text() == "101"
    assert names(folder) == ["checkpoint-4", "checkpoint-8", "unsound"]


def test_nothing_is_lost_when_a_name_is_unsound_twice(folder):
    put_aside(folder / "checkpoint-100")
    put_aside(make(folder, 100))
    assert names(folder / "unsound") == ["checkpoint-100", "checkpoint-100.2"]


def test_a_named_checkpoint_must_be_sound(folder):
    assert find_checkpoint(str(folder / "checkpoint-8"), folder) == (str(folder / "checkpoint-8"), [])
    (folder / "checkpoint-8" / "weights").write_text("")
    with pytest.raises(UserError, match="checkpoint-8 is no checkpoint to continue from: weights has 0 bytes"):
        find_checkpoint(str(folder / "checkpoint-8"), folder)
    assert "checkpoint-8" in names(folder)  # it is the user's


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [(None, None, [4, 8, 12, 100]), (2, None, [12, 100]), (1, None, [100]), (1, 4, [4, 100]), (2, 100, [12, 100])],
)
def test_rotation_keeps_the_newest_and_the_best(limit, best, left, folder):
    rotate(folder, limit, best and str(folder / f"checkpoint-{best}"))
    assert [path.name for path in checkpoints(folder)] == [f"checkpoint-{step}" for step in left]


def test_other_folders_are_no_checkpoints(folder):
    (folder / f"checkpoint-7{UNFINISHED}").mkdir()
    (folder / "checkpoint-best").mkdir()
    (folder / "checkpoint-9").write_text("a file")
    assert [path.name for path in checkpoints(folder)] == [f"checkpoint-{step}" for step in (4, 8, 12, 100)]


@pytest.mark.parametrize("name", ["optimizer.bin", "optimizer_0/part", "global_step100/part"])
def test_the_optimizer_s_state_has_several_forms(name, folder):
    (folder / "checkpoint-100" / "optimizer.pt").unlink()
    (folder / "checkpoint-100" / name).parent.mkdir(exist_ok=True)
    (folder / "checkpoint-100" / name).write_text("a state")
    seal(folder / "checkpoint-100")
    assert find_checkpoint("auto", folder) == (str(folder / "checkpoint-100"), [])


def test_a_checkpoint_without_the_optimizer_is_not_continued(folder):
    """Refuse what `save_only_model` writes: every byte is there, and the learning rate would begin anew."""
    (folder / "checkpoint-100" / "optimizer.pt").unlink()
    seal(folder / "checkpoint-100")
    with pytest.raises(UserError, match="checkpoint-100 is no checkpoint to continue from: it has no optimizer state"):
        find_checkpoint(str(folder / "checkpoint-100"), folder)
    found, (notice,) = find_checkpoint("auto", folder)
    assert found == str(folder / "checkpoint-12") and "it has no optimizer state; moved to" in notice
