"""scripts/check_gpu.sh --dry: what it does on a GPU, on a CPU with tiny shapes."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from scripts.gpu_check import LAST_WORDS, Step, describe_machine, perform, report, steps
from tests.warm import run_warm

ROOT = Path(__file__).parents[2]
LIMIT, START = 9 * 60, 15  # seconds that the command may take, and that all takes beside its steps


def test_the_dry_run_does_every_step_and_writes_both_tables(tmp_path):
    command = [sys.executable, ROOT / "scripts/gpu_check.py", tmp_path, "--dry"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = run_warm(command, env=environment, stdout=subprocess.PIPE, text=True)
    logs = "\n".join(path.read_text()[-3000:] for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + logs
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(step["name"], step["status"]) for step in results["steps"]] == [
        ("tiny", "passed"),
        ("tests", "passed"),
        ("run", "passed"),
        ("compiled", "passed"),
    ]
    rows = results["steps"][0]["rows"]
    assert [(row["setting"], row["attention"]) for row in rows] == [("lora-selective", "flash"), ("qlora", "flash")]
    assert all(row["ratio"] > 0 and row["flops"] > 0 and row["tokens"] > 136 for row in rows)
    table = (tmp_path / "table.md").read_text()
    assert table.count("| qlora, flash |") == 1 and "| tests | passed |" in table
    assert "continuing from" in (tmp_path / "run.log").read_text()
    assert "answers of the adapter and of the merged model" in (tmp_path / "run.log").read_text()
    assert f"done: {tmp_path}/compiled/out" in (tmp_path / "compiled.log").read_text()


def test_all_steps_together_end_in_time(tmp_path):
    real = steps(tmp_path, dry=False)
    side_by_side = max(step.limit for step in real if not step.is_timed)
    timed = [step.limit for step in real if step.is_timed]
    assert START + side_by_side + sum(timed) + LAST_WORDS * (1 + len(timed)) <= LIMIT


def test_a_step_that_fails_or_hangs_is_named_and_its_children_end(tmp_path):
    fails = Step("fails", (sys.executable, "-c", "exit(3)"), 60)
    sleep = f"import os, time; open('{tmp_path}/pid', 'w').write(str(os.getpid())); time.sleep(600)"
    rank = "import subprocess, sys; subprocess.run(sys.argv[1:], start_new_session=True)"  # as launchers start them
    hangs = Step("hangs", (sys.executable, "-c", rank, sys.executable, "-c", sleep), 3)
    outcomes = [perform(step, tmp_path, dry=True) for step in (fails, hangs)]
    assert [outcome.status for outcome in outcomes] == ["failed", "took longer than 3 s"]
    gone(int((tmp_path / "pid").read_text()))
    report(tmp_path, describe_machine(), outcomes)
    assert "| hangs | took longer than 3 s |" in (tmp_path / "table.md").read_text()


def gone(number: int) -> None:
    """Wait for the end of a process that was killed."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(number).wait(60)


def test_tests_that_are_cut_off_say_what_has_failed(tmp_path):
    (tmp_path / "test_both.py").write_text(
        "import time\ndef test_fails():\n    assert 1 + 1 == 3\ndef test_hangs():\n    time.sleep(600)\n"
    )
    command = (sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(tmp_path), "-n", "2", str(tmp_path))
    assert perform(Step("tests", command, 20), tmp_path, dry=True).status == "took longer than 20 s"
    log = (tmp_path / "tests.log").read_text()
    assert "assert (1 + 1) == 3" in log and "test_fails" in log, log


def test_a_step_that_is_cut_off_keeps_the_cases_that_it_had(tmp_path):
    writes = f"import time; open('{tmp_path}/slow.json', 'w').write('[1, 2]'); time.sleep(600)"
    (tmp_path / "slow.json").write_text("[0]")  # of an earlier check
    outcome = perform(Step("slow", (sys.executable, "-c", writes, "--json"), 3), tmp_path, dry=True)
    assert (outcome.status, outcome.rows) == ("took longer than 3 s", [1, 2])
    outcome = perform(Step("slow", (sys.executable, "-c", "exit(1)", "--json"), 3), tmp_path, dry=True)
    assert (outcome.status, outcome.rows) == ("failed", [])


def test_the_script_starts_the_check_in_the_checkout(tmp_path):
    """Give it wheels, too, which it installs first. Folders are those that the caller means."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").touch()
    (python := tmp_path / "bin" / "python3").write_text('#!/bin/sh\necho "$PWD|$PYTHONPATH|$*"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    started = []
    for options in ((), ("--wheels", "wheels")):
        command = ["bash", ROOT / "scripts/check_gpu.sh", "--dry", *options, "out"]
        (tmp_path / "out" / "site").mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        started += [line.split("|") for line in done.stdout.splitlines()]
    plain, installed, with_wheels = started
    words = f"scripts/gpu_check.py {tmp_path}/out --dry"
    assert plain == [str(ROOT), str(ROOT), words]
    assert installed[2].startswith("-m pip install ") and installed[2].endswith(" wheels/a.whl")
    assert with_wheels == [str(ROOT), f"{ROOT}{os.pathsep}{tmp_path}/out/site", words]


def test_an_option_that_is_none(tmp_path):
    done = subprocess.run(["bash", ROOT / "scripts/check_gpu.sh", "--wet", tmp_path], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "--wet is no option" in done.stderr
