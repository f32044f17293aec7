"""The cost of a checkpoint and of a resume, on a run of a recipe; the demo's needs scripts/make_demo.py outputs/demo.

stall   seconds of training that a checkpoint every 50 steps takes, over the seconds of those steps
save    one checkpoint: transformers' own, written in place, and ours, flushed to the disk, hashed and renamed
resume  from the start of the command to the end of its first step: a fresh run, and one that continues 90 % into an
        epoch; the rows before are not decoded again
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from scripts.benchmarks.measure import MB, Figures, compared, machine, seconds
from train import sft
from train.loop.hooks import HookedTrainer
from train.run_folder.checkpoint import checkpoints, step_of
from train.run_folder.metrics import METRICS_FILE, keep_lines_until

ROOT = Path(__file__).parents[2]
EVERY = 50  # steps from checkpoint to checkpoint
POLL_SAVED_S, POLL_STEP_S = 0.05, 0.005  # between looks for a checkpoint, and for a step that is timed
LOUD = ["training.logging_steps=1", "training.disable_tqdm=true"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="recipes/demo.yaml")
    parser.add_argument("--steps", type=int, default=2 * EVERY + 10)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Measure and print case by case; return the figures of each."""
    torch.set_num_threads(arguments.threads)
    about = {"machine": machine(), "torch": torch.__version__, "recipe": arguments.recipe}
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for case in (stall_and_save, resume):
            for found in case(arguments, Path(folder)):
                figures.append({**found, **about})
                print(describe(figures[-1]), flush=True)
    return figures


def stall_and_save(arguments: argparse.Namespace, folder: Path) -> list[Figures]:
    """Train with a checkpoint every 50 steps; at the end both ways save by turns."""
    ours: list[float] = []
    plain: list[float] = []

    class AtTheEnd(TrainerCallback):
        def on_train_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
        ) -> None:
            for _ in range(arguments.repetitions):
                plain.append(seconds(lambda: save_in_place(trainers[0])))
                ours.append(seconds(lambda: save_whole(trainers[0])))

    trainers: list[HookedTrainer] = []

    class Watched(sft.RowTrainer):
        def __init__(self, **kwargs: Any):
            super().__init__(**kwargs)
            self.add_callback(AtTheEnd())
            trainers.append(self)

    original, sft.RowTrainer = sft.RowTrainer, Watched
    try:
        out = folder / "stall"
        settings = [f"training.output_dir={out}", f"training.save_steps={EVERY}"]
        with redirect_stdout(StringIO()):
            sft.main([arguments.recipe, *settings, f"training.max_steps={arguments.steps}", *LOUD])
    finally:
        sft.RowTrainer = original
    lines = [line for line in read_metrics(out) if "step_s" in line]
    saving, training = (sum(line[name] for line in lines) for name in ("save_s", "step_s"))
    size = sum(path.stat().st_size for path in checkpoints(out)[-1].rglob("*") if path.is_file())
    stall = {"case": "stall", "ours_s": saving, "plain_s": training - saving, "share": saving / (training - saving)}
    return [
        {**stall, "ratio": (training - saving) / training, "memory_ratio": None, "steps": len(lines), "every": EVERY},
        {"case": "save", **compared(plain, ours), "checkpoint_mb": size / MB},
    ]


def save_whole(trainer: HookedTrainer) -> None:
    """Save a checkpoint the way training does."""
    assert trainer.model is not None
    trainer._save_checkpoint(trainer.model, None)


def save_in_place(trainer: HookedTrainer) -> None:
    """Save with transformers' `Trainer._save_checkpoint` instead of reeltune's."""
    assert trainer.model is not None
    Trainer._save_checkpoint(trainer, trainer.model, None)


def resume(arguments: argparse.Namespace, folder: Path) -> list[Figures]:
    """Start the real command afresh and continued, by turns; each is killed after its first step."""
    kept = folder / "ninety"
    epoch = [f"training.output_dir={kept}", "training.max_steps=-1", "training.num_train_epochs=1"]
    until_saved = [*epoch, "training.save_steps=0.9", "training.save_total_limit=1"]
    process = start(arguments.recipe, *until_saved)
    while not (saved := [path for path in kept.glob("checkpoint-*") if path.suffix == ""]) and process.poll() is None:
        time.sleep(POLL_SAVED_S)
    stop(process)
    step = step_of(saved[0])
    keep_lines_until(kept / METRICS_FILE, step)
    times: dict[str, list[float]] = {"fresh": [], "continued": []}
    for _ in range(arguments.repetitions):
        for name, values in times.items():
            out = folder / name
            shutil.rmtree(out, ignore_errors=True)
            if name == "continued":
                shutil.copytree(kept, out)
            values.append(until_first_step(arguments.recipe, out, *until_saved[1:]))
    figures = compared(times["fresh"], times["continued"])
    return [{"case": "resume", **figures, "slower": figures["ours_s"] / figures["plain_s"], "step": step}]


def until_first_step(recipe: str, out: Path, *settings: str) -> float:
    """Start a run, kill it after its first step, and return the seconds until then."""
    before = len(read_metrics(out))
    begin = time.perf_counter()
    process = start(recipe, f"training.output_dir={out}", *settings)
    while len(read_metrics(out)) <= before and process.poll() is None:
        time.sleep(POLL_STEP_S)
    elapsed = time.perf_counter() - begin
    stop(process)
    return elapsed


def start(recipe: str, *settings: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train" / "sft.py"), recipe, *settings, *LOUD]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stop(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def read_metrics(folder: Path) -> list[Figures]:
    """Read the complete lines of metrics.jsonl; the last may be being written."""
    path = folder / METRICS_FILE
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


DESCRIPTIONS: dict[str, Callable[[Figures], str]] = {
    "stall": lambda case: (
        f"stall   {case['ours_s']:.2f} s of checkpoints, one every {case['every']} steps, on {case['plain_s']:.1f} s "
        f"of {case['steps']} steps: {case['share']:.1%}"
    ),
    "save": lambda case: (
        f"save    ours {case['ours_s'] * 1e3:.0f} ms, in place {case['plain_s'] * 1e3:.0f} ms, "
        f"{case['checkpoint_mb']:.1f} MB"
    ),
    "resume": lambda case: (
        f"resume  first step after {case['ours_s']:.1f} s at step {case['step']}, 90 % into the epoch, and after "
        f"{case['plain_s']:.1f} s fresh: {case['slower']:.2f}x"
    ),
}


def describe(figures: Figures) -> str:
    """Return the line that is printed for a case."""
    bounds = figures.get("spread", {}).items()
    spread = [f"{name.removesuffix('_s')} {low:.2f} to {high:.2f} s" for name, (low, high) in bounds]
    return DESCRIPTIONS[figures["case"]](figures) + (f" ({', '.join(spread)})" if spread else "")
