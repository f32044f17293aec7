"""The steps of scripts/check_gpu.sh, each in a process of its own with a time limit; one JSON and one table.

    python scripts/gpu_check.py FOLDER [--dry]

A step that fails or takes too long is named, and the next one runs. The status is 1 where any did not succeed.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import psutil

from data.command import run_command
from data.errors import UserError

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "av")
BENCHMARK = (sys.executable, "scripts/benchmark.py", "gpu")
CLIPS = ("--clips", "3", "1")  # three fill a row of the recipes' data.max_tokens_per_row
SIDE_BY_SIDE = ("-n", "6", "--dist", "worksteal")
EACH_BY_NAME = "-vv"  # as it ends: -q of pyproject.toml leaves dots
LAST_WORDS = 5  # seconds for a step that is out of time: pytest says which tests have failed, and why
DRY_LIMIT = 600  # a busy machine of CI is no failure


@dataclass(frozen=True)
class Step:
    """A command line of this checkout, how many seconds it may take, and whether it measures time: those that do not
    run side by side."""

    name: str
    command: tuple[str, ...]
    limit: int
    is_timed: bool = True

    @property
    def has_rows(self) -> bool:
        return "--json" in self.command


@dataclass
class Outcome:
    name: str
    status: str  # "passed", "failed" or "took longer than N s"
    seconds: float
    rows: list[dict] = field(default_factory=list)


def steps(out: Path, dry: bool) -> list[Step]:
    """Return the steps, the most telling first, in case the machine is slower than thought."""
    files = sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text())
    together = SIDE_BY_SIDE if find_spec("xdist") and not dry else ()
    pytest = (sys.executable, "-m", "pytest", "-m", "gpu", "-rs", EACH_BY_NAME, *together, *files)
    run = (sys.executable, "scripts/gpu_run.py", str(out), *(("--dry",) if dry else ()))
    untimed = [
        Step("tests", pytest, 145, is_timed=False),
        Step("run", run, 145, is_timed=False),
        Step("compiled", (*run, "--compiled"), 145, is_timed=False),
    ]

    def measure(name: str, limit: int, *options: str) -> Step:
        files = ("--json", str(out / f"{name}.json"), "--profile", str(out / f"{name}.txt"))
        return Step(name, (*BENCHMARK, *options, *files), limit)

    if dry:
        tiny = ("--shape", "tiny", "--questions", "2", "--plain-batches", "1", "--repetitions", "1")
        every = ("--settings", "lora-selective", "qlora", "--attention", "flash")
        return [replace(step, limit=DRY_LIMIT) for step in (measure("tiny", 0, *tiny, *every), *untimed)]
    compiled = ("--compile", "--attention", "flash", *CLIPS, "--repetitions", "3")
    return [  # compiling takes 80 to 120 s of either, by how fast the machine's processor is
        measure("lora", 195, "--settings", "lora", *compiled, "--questions", "8", "25", "1"),
        measure("qlora", 170, "--settings", "qlora", *compiled, "--questions", "8", "--plain-batches", "1"),
        *untimed,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for results.json, table.md and the logs")
    parser.add_argument("--dry", action="store_true", help="on a CPU, with tiny shapes")
    arguments = parser.parse_args()
    import torch

    if not arguments.dry and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device; --dry runs the same steps on a CPU")
    out, about = arguments.folder.absolute(), describe_machine()
    out.mkdir(parents=True, exist_ok=True)
    todo, outcomes = steps(out, arguments.dry), []
    while todo:
        together = [step for step in todo if not step.is_timed] if not todo[0].is_timed else todo[:1]
        todo = [step for step in todo if step not in together]
        with ThreadPoolExecutor() as pool:
            for outcome in pool.map(lambda step: perform(step, out, arguments.dry), together):
                outcomes.append(outcome)
                report(out, about, outcomes)
    print((out / "table.md").read_text())
    sys.exit(any(outcome.status != "passed" for outcome in outcomes))


def perform(step: Step, out: Path, dry: bool) -> Outcome:
    """Run one step to its end or its limit; what it prints is in FOLDER/NAME.log."""
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **os.environ}
    if dry:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    rows_file = out / f"{step.name}.json"
    rows_file.unlink(missing_ok=True)  # of an earlier check
    start = time.monotonic()
    with open(out / f"{step.name}.log", "w") as log:
        process = subprocess.Popen(step.command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            status = "failed" if process.wait(step.limit) else "passed"
        except subprocess.TimeoutExpired:
            status = f"took longer than {step.limit} s"
            end(process)
    seconds = time.monotonic() - start
    print(f"{step.name}: {status}, {seconds:.0f} s", flush=True)
    rows = json.loads(rows_file.read_text()) if step.has_rows and rows_file.exists() else []
    return Outcome(step.name, status, seconds, rows)


def end(process: subprocess.Popen) -> None:
    """Interrupt a step as Ctrl-C does, and kill what is left of it after LAST_WORDS: ranks, too, which launchers give
    sessions of their own."""
    step = psutil.Process(process.pid)
    started = step.children(recursive=True)
    for each in (step, *started):
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(LAST_WORDS)
    if process.poll() is None:
        started = [step, *step.children(recursive=True), *started]
    for each in started:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def describe_machine() -> dict[str, str]:
    """Return the GPU and the versions. Raises UserError where a package is missing: no step would do without."""
    from scripts.benchmarks.measure import machine

    try:
        versions = {name: version(name) for name in PACKAGES}
    except PackageNotFoundError as problem:
        raise UserError(f"{problem.name} is not installed: pip install -e ., or --wheels") from None
    return {"machine": machine(), "python": platform.python_version(), **versions}


def report(out: Path, about: Mapping[str, str], outcomes: list[Outcome]) -> None:
    """Write results.json and table.md of the steps so far."""
    results = {**about, "steps": [asdict(outcome) for outcome in outcomes]}
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    lines = [", ".join(f"{name} {value}" for name, value in about.items()), "", "| step | result | seconds |"]
    lines += ["| --- | --- | --- |", *(f"| {one.name} | {one.status} | {one.seconds:.0f} |" for one in outcomes)]
    rows = [row for outcome in outcomes for row in outcome.rows]
    if rows:
        lines += ["", f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}", *map(table_line, rows)]
    (out / "table.md").write_text("\n".join(lines) + "\n")


COLUMNS = {
    "setting": "{setting}, {attention}{with_compile}",
    "clips x questions": "{clips_per_row} x {questions_per_clip}",
    "tokens": "{tokens:,}",
    "ms a row": "{ms:.0f}",
    "questions/s": "{questions_per_s:.1f}",
    "to plain": "{to_plain}",
    "TFLOP/s": "{tflops:.0f}",
    "of a matrix product": "{mfu:.0%}",
    "peak GiB": "{peak}",
}


def table_line(row: dict) -> str:
    peak = "-" if row["peak_mib"] is None else f"{row['peak_mib'] / 1024:.2f}"
    filled = {**row, "ms": row["row_s"] * 1000, "peak": peak, "with_compile": ", compiled" if row["compiled"] else ""}
    filled["to_plain"] = f"{row['ratio']:.2f}x" if "ratio" in row else "-"
    return "| " + " | ".join(cell.format(**filled) for cell in COLUMNS.values()) + " |"


if __name__ == "__main__":
    run_command(main)
