"""Filling the frame cache by the command, on a disk that is full, and killed."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from data.batches.pixels import PixelLoader
from data.cache.frame_cache import FrameCache
from data.files import UNFINISHED
from data.media.reference import Media
from tests.safety.kills import killed, make_room, on_small_disk
from tests.tiny_data import turns
from train.commands.app import run

NUM_CLIPS = 6
SMALL, LARGE = "200k", "64m"  # a clip has 75 kB


@pytest.fixture
def recipe(model_folder, media_folder, tmp_path):
    root = tmp_path / "media"
    root.mkdir()
    for number in range(NUM_CLIPS):
        shutil.copy(media_folder / "clip0.mp4", root / f"{number}.mp4")
    records = [{"video": f"{n}.mp4", "conversations": turns("<video>\nWhat?", "red")} for n in range(NUM_CLIPS)]
    (tmp_path / "train.json").write_text(json.dumps(records))
    (tmp_path / "recipe.yaml").write_text(
        f"model: {{name_or_path: {model_folder}, dtype: float32}}\n"
        f"data:\n  train: [{{path: {tmp_path}/train.json, media_root: {root}}}]\n  max_length: 1000\n"
        f"  max_tokens_per_row: 1000\n  frame_cache: {tmp_path}/frames\ntraining: {{output_dir: {tmp_path}/out}}\n"
    )
    return tmp_path / "recipe.yaml"


def check_complete(folder: Path, recipe: Path, processor) -> None:
    """Check that every clip is there as it is decoded, and nothing else."""
    cache, plain = FrameCache(folder, processor, 8), PixelLoader(processor, 8)
    for number in range(NUM_CLIPS):
        item = Media("video", str(recipe.parent / "media" / f"{number}.mp4"))
        assert item in cache
        assert cache.get(item, lambda: pytest.fail("was not kept")).equal(plain.fitted(item))
    assert [path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"] == []


def fill(*options: object) -> int:
    """Run the command, and return its exit status."""
    try:
        run(["check", *map(str, options), "--fill-cache"])
    except SystemExit as end:
        return end.code
    return 0


def test_a_full_disk_is_one_line_and_with_room_the_command_goes_on(recipe, processor, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = (recipe, "--workers", 2, f"data.frame_cache={disk}/frames")

    def twice():
        status = fill(*command)
        left = list(disk.rglob("*unfinished"))
        for path in left:
            if not path.stat().st_size:
                os.utime(path, (0, 0))  # ended before its first byte: for a minute it may be another's that begins
        num_left = sum(path.stat().st_size > 0 for path in left)
        print("STATUS", status, len(list(disk.rglob("*.safetensors"))), num_left)
        make_room(disk, LARGE)
        print("STATUS", fill(*command))
        shutil.copytree(disk / "frames", tmp_path / "copy")
        sys.stdout.flush()

    first, second = on_small_disk(disk, SMALL, twice, tmp_path / "log").split("STATUS 1", 1)
    line = f"  {disk}/frames: cannot be written (No space left on device); make room; the same command goes on\n"
    assert first.endswith("1 PROBLEMS\n" + line) and "all is well" not in first and "Traceback" not in first + second
    kept, num_left = map(int, re.match(r" (\d+) (\d+)\n", second).groups())
    assert 0 < kept < NUM_CLIPS and num_left == 0
    assert second.endswith("all is well\nSTATUS 0\n")
    check_complete(tmp_path / "copy", recipe, processor)


def test_a_fill_that_was_killed_goes_on(recipe, processor, tmp_path, capsys):
    frames = tmp_path / "frames"
    command = (recipe, "--workers", 1)
    killed(lambda: fill(*command), lambda: bool(list(frames.glob("??/*.safetensors"))))
    # As a process that was killed between two writes leaves it.
    (frames / "ab").mkdir(exist_ok=True)
    (frames / "ab" / f".c.safetensors.12345678{UNFINISHED}").write_bytes(b"half")
    assert fill(*command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all is well"
    check_complete(frames, recipe, processor)
