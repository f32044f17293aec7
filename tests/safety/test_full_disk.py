"""A small tmpfs that a run fills to its last byte, by the real command."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.short_run import result
from train.sft import main

ROOT = Path(__file__).parents[2]
# One checkpoint of the tiny run has about 620 kB: the second one does not fit. With room, all three do.
SMALL, LARGE = "900k", "64m"
# Mounts are this command's own: `unshare` gives it a name space that ends with it.
TWICE = f"""
mount -t tmpfs -o size={SMALL} tmpfs "$1" || exit 99
"$2" train/sft.py "$3" training.eval_strategy=no training.output_dir="$1/run"
echo "STATUS $?" $(ls "$1/run" | grep checkpoint)
mount -o remount,size={LARGE} "$1"
"$2" train/sft.py "$3" training.eval_strategy=no training.output_dir="$1/run"
echo "STATUS $?"
cp "$1/run/adapter_model.safetensors" "$4"
"""


def in_namespace(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["unshare", "-rm", *command], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def can_mount(folder: Path) -> bool:
    try:
        return in_namespace("mount", "-t", "tmpfs", "tmpfs", str(folder)).returncode == 0
    except OSError:
        return False


def test_a_full_disk_keeps_the_checkpoint_before_and_with_room_the_command_continues(recipe_file, out, tmp_path):
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    copy.mkdir()
    if not can_mount(disk):
        pytest.skip("`unshare -rm mount -t tmpfs` is not allowed here")
    run = in_namespace("sh", "-c", TWICE, "sh", str(disk), sys.executable, str(recipe_file), str(copy))
    assert "STATUS 2 checkpoint-2\n" in run.stdout, run.stdout
    assert re.search(r"error: cannot write checkpoint-4 into \S+ \(0\.\d MiB free\)", run.stdout)
    assert "Traceback" not in run.stdout
    assert run.stdout.endswith("STATUS 0\n")
    assert "continuing from" in run.stdout
    main([str(recipe_file), "training.eval_strategy=no"])
    assert result(copy) == result(out)
