"""Filling the frame cache by the real command, on a disk that is full, and killed."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.batches.pixels import PixelLoader
from data.cache.frame_cache import FrameCache
from data.files import UNFINISHED
from data.media.reference import Media
from tests.tiny_data import turns

ROOT = Path(__file__).parents[2]
NUM_CLIPS = 6
# A clip has 75 kB. Mounts are this command's own: `unshare` gives it a name space that ends with it.
TWICE = """
mount -t tmpfs -o size=200k tmpfs "$1" || exit 99
"$2" scripts/check_data.py "$3" --fill-cache --workers 2 data.frame_cache="$1/frames"
echo "STATUS $?" $(find "$1" -name '*.safetensors' | wc -l) $(find "$1" -name '*unfinished' | wc -l)
mount -o remount,size=64m "$1"
"$2" scripts/check_data.py "$3" --fill-cache --workers 2 data.frame_cache="$1/frames"
echo "STATUS $?"
cp -r "$1/frames" "$4"
"""


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


def test_a_full_disk_is_one_line_and_with_room_the_command_goes_on(recipe, processor, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    in_namespace = ["unshare", "-rm"]
    try:
        subprocess.run([*in_namespace, "mount", "-t", "tmpfs", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.skip(f"`unshare -rm mount -t tmpfs` is not allowed here: {problem}")
    command = [*in_namespace, "sh", "-c", TWICE, "sh", str(disk), sys.executable, str(recipe), str(tmp_path / "copy")]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    first, second = run.stdout.split("STATUS 1", 1)
    line = f"  {disk}/frames: cannot be written (No space left on device); make room; the same command goes on\n"
    assert first.endswith("1 PROBLEMS\n" + line) and "all is well" not in first and "Traceback" not in run.stderr
    kept, num_left = map(int, re.match(r" (\d+) (\d+)\n", second).groups())
    assert 0 < kept < NUM_CLIPS and num_left == 0
    assert second.endswith("all is well\nSTATUS 0\n")
    check_complete(tmp_path / "copy", recipe, processor)


def test_a_fill_that_was_killed_goes_on(recipe, processor, tmp_path):
    command = [sys.executable, "scripts/check_data.py", str(recipe), "--fill-cache", "--workers", "1"]
    frames = tmp_path / "frames"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(frames.glob("??/*.safetensors")):
            time.sleep(0.005)
        process.kill()
    # As a process that was killed between two writes leaves it.
    (frames / "ab").mkdir(exist_ok=True)
    (frames / "ab" / f".c.safetensors.12345678{UNFINISHED}").write_bytes(b"half")
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all is well"), done.stderr
    check_complete(frames, recipe, processor)
