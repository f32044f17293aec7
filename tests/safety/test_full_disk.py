"""A small tmpfs that a run fills to its last byte."""

import re
import shutil
import sys

import pytest

from data.command import run_command
from tests.safety.kills import make_room, on_small_disk
from tests.short_run import result
from train.sft import main

# One checkpoint of the tiny run has about 370 kB: the second one does not fit. With room, all three do.
SMALL, LARGE = "540k", "64m"


def test_a_full_disk_keeps_the_checkpoint_before_and_with_room_the_command_continues(recipe_file, out, tmp_path):
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    copy.mkdir()
    command = [str(recipe_file), "training.eval_strategy=no", f"training.output_dir={disk}/run"]

    def twice():
        with pytest.raises(SystemExit) as end:
            run_command(lambda: main(command))
        print("STATUS", end.value.code, *(path.name for path in (disk / "run").glob("checkpoint*")))
        make_room(disk, LARGE)
        main(command)
        shutil.copy(disk / "run" / "adapter_model.safetensors", copy)
        sys.stdout.flush()

    printed = on_small_disk(disk, SMALL, twice, tmp_path / "log")
    assert "STATUS 2 checkpoint-2\n" in printed, printed
    assert re.search(r"error: cannot write checkpoint-4 into \S+ \(0\.\d MiB free\)", printed)
    assert "Traceback" not in printed
    assert "continuing from" in printed.partition("STATUS")[2]
    main([str(recipe_file), "training.eval_strategy=no"])
    assert result(copy) == result(out)
