"""Files from elsewhere open no file outside of their folder and run no code, and no secret is written down."""

import json
import re
from pathlib import Path

import pytest

from data.decoding.video import read_frames
from data.errors import UserError
from data.inspection.check import unused_media
from data.sources.conversation import read_conversations
from data.sources.source import Source
from train.sft import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data_file(tmp_path):
    def write(*paths):
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
        (tmp_path / "train.json").write_text(json.dumps([{"image": path, "conversations": turns} for path in paths]))
        return tmp_path / "train.json"

    return write


def paths(file, media_root=None, **settings):
    source = Source(file, media_root=media_root, **settings)
    return [item.path for conversation in read_conversations(source) for item in conversation.media]


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/passwd", "../media2/a.png"])
def test_a_media_path_may_not_leave_its_root(path, data_file, tmp_path):
    file, root = data_file("a.png", path), tmp_path / "media"
    with pytest.raises(UserError, match="record 2: picture .* is outside of media_root .*; move it, or set outside"):
        paths(file, root)
    assert len(paths(file, root, outside_media_root=True)) == 2
    assert len(paths(file)) == 2


def test_a_media_path_may_wander_inside_its_root(data_file, tmp_path, monkeypatch):
    inside = ["a.png", "b/../a.png", str(tmp_path / "media" / "a.png"), "./a.png"]
    assert len(paths(data_file(*inside), tmp_path / "media")) == 4
    monkeypatch.chdir(tmp_path)
    assert paths(data_file("a.png"), "media") == ["media/a.png"]


def test_of_several_roots_the_first_that_has_the_file_and_none_may_be_left(data_file, tmp_path):
    roots = [str(tmp_path / name) for name in ("first", "second")]
    for root in roots:
        Path(root).mkdir()
    for number, root in enumerate(roots):
        for name in ("both.png", f"only{number}.png"):
            Path(root, name).touch()
    file = data_file("both.png", "only0.png", "only1.png", "neither.png")
    expected = [f"{roots[0]}/both.png", f"{roots[0]}/only0.png", f"{roots[1]}/only1.png", f"{roots[0]}/neither.png"]
    assert paths(file, roots) == expected
    assert paths(data_file("../second/only1.png"), roots) == [f"{roots[0]}/../second/only1.png"]
    with pytest.raises(UserError, match=f"is outside of media_root {roots[0]} and {roots[1]}; move it"):
        paths(data_file("../train.json"), roots)
    assert unused_media([Source(file, media_root=roots)], []) == sorted(
        f"{root}/{name}" for root, name in zip(roots * 2, ["both.png"] * 2 + ["only0.png", "only1.png"], strict=True)
    )


def test_no_code_of_a_checkpoint_is_trusted():
    """transformers runs code from the hub only when it is told to, and pickle whenever it is used."""
    forbidden = r"trust_remote_code\s*=\s*True|weights_only\s*=\s*False|\bpickle\.load|\bimport (pickle|dill)"
    between_own_processes = {
        ROOT / "data/batches/delivery.py",
        ROOT / "data/tokens/shares.py",
    }  # as multiprocessing does
    for folder in ("train", "data", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            if path not in between_own_processes:
                assert not re.search(forbidden, path.read_text()), path


def test_no_secret_is_written(recipe_file, out, monkeypatch, capfd):
    secret = "hf_" + "SECRET" * 5
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, secret)
    main([str(recipe_file), "training.max_steps=2"])
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {"recipe.yaml", "README.md", "provenance.json", "run.json", "training_args.bin"} <= {p.name for p in written}
    for path in written:
        assert secret.encode() not in path.read_bytes(), path
    assert secret not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "playlist", ["ffconcat version 1.0\nfile clip0.mp4\n", "#EXTM3U\n#EXTINF:1,\nclip0.mp4\n#EXT-X-ENDLIST\n"]
)
def test_a_playlist_opens_no_file_that_no_row_names(playlist, media_folder):
    path = media_folder / "list.mp4"
    path.write_text(playlist)
    with pytest.raises(UserError, match="list.mp4"):
        read_frames(path, 8)
