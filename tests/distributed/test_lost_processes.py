"""A process or a machine that is killed: the others stop soon and say so, and the same command goes on."""

import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import yaml

from tests.launching import command_line, free_port, started
from train.sft import main

NUM_STEPS, SAVE_EVERY = 24, 4


@pytest.fixture
def recipe_file(model_folder, mixed_file, tmp_path) -> Path:
    recipe = {
        "model": {"name_or_path": str(model_folder), "dtype": "float32"},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
        "data": {"train": [{"path": str(mixed_file)}], "max_length": 512, "packing": "none", "rows_per_step": 2},
        "training": {
            "output_dir": str(tmp_path / "out"),
            "max_steps": NUM_STEPS,
            "save_steps": SAVE_EVERY,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "report_to": "none",
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def losses(out: Path) -> dict[int, float]:
    """Return step -> loss."""
    file = out / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def steps(out: Path) -> list[int]:
    return list(losses(out))


def wait_for_a_checkpoint(out: Path, seconds: float = 120) -> None:
    """Complete, and some steps behind it."""
    end = time.monotonic() + seconds
    while not (out / f"checkpoint-{SAVE_EVERY}/trainer_state.json").exists() or steps(out)[-1] < SAVE_EVERY + 2:
        assert time.monotonic() < end, "no checkpoint in time"
        time.sleep(0.1)


def ranks_of(launcher: int) -> list[psutil.Process]:
    children = psutil.Process(launcher).children(recursive=True)
    return [child for child in children if child.name().startswith("sft.py rank")]


def check_finished(out: Path, printed: str) -> None:
    assert "continuing from" in printed and f"done: {out}" in printed
    assert steps(out) == list(range(1, NUM_STEPS + 1))


def test_a_rank_that_is_killed_ends_the_job_and_the_same_command_continues(recipe_file, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    command = command_line("cpu_2", "train/sft.py", recipe_file)
    with started(command, tmp_path, log) as launcher:
        wait_for_a_checkpoint(out)
        ranks = ranks_of(launcher.pid)
        assert len(ranks) == 2
        ranks[1].kill()
        assert launcher.wait(timeout=60) != 0
        assert psutil.wait_procs(ranks, timeout=10)[1] == []
    assert steps(out)[-1] < NUM_STEPS
    with started(command, tmp_path, log) as launcher:
        assert launcher.wait(timeout=180) == 0, log.read_text()[-4000:]
    check_finished(out, log.read_text())

    # Another number of processes goes on with the right rows; an unbroken run of one process says which these are.
    shutil.rmtree(out / f"checkpoint-{NUM_STEPS}")
    main([str(recipe_file)])
    main([str(recipe_file), f"training.output_dir={tmp_path / 'one'}"])
    assert losses(out) == pytest.approx(losses(tmp_path / "one"), abs=1e-4) and len(losses(out)) == NUM_STEPS


def test_a_machine_that_goes_away_ends_the_other_and_the_same_commands_continue(recipe_file, tmp_path):
    out, logs = tmp_path / "out", [tmp_path / f"log{number}" for number in range(2)]

    def two_machines(stack: ExitStack):
        port = free_port()
        for number, log in enumerate(logs):
            options = ("--machine_rank", number, "--main_process_ip", "127.0.0.1", "--num_processes", 2)
            command = command_line("multi_node", "train/sft.py", recipe_file, port=port, options=options)
            yield stack.enter_context(started(command, tmp_path, log))

    with ExitStack() as stack:
        machines = list(two_machines(stack))
        wait_for_a_checkpoint(out)
        for process in [*ranks_of(machines[1].pid), psutil.Process(machines[1].pid)]:
            process.kill()
        assert machines[0].wait(timeout=60) != 0
    assert "error: process 0 of 2 lost the connection to another one" in logs[0].read_text()
    assert "the same command, on all machines, continues" in logs[0].read_text()
    with ExitStack() as stack:
        for machine, log in zip(list(two_machines(stack)), logs, strict=True):
            assert machine.wait(timeout=180) == 0, log.read_text()[-4000:]
    check_finished(out, logs[0].read_text())
