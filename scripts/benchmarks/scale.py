"""Optimizer steps of one and of two processes on this machine, by the real command on the same rows.

ours   two processes, connected by gloo on the CPU and by NCCL on GPUs, half of the rows each
plain  one process, all rows of the step

Each repetition launches both and takes the median of its steps without the first ones. On the CPU both share the
machine's cores, a thread a process: the ratio is at best the number of processes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
import yaml

from data.errors import UserError
from data.processor import measure_visual_tokens
from data.video_llava import NUM_FRAMES
from scripts.benchmarks.measure import Figures, compared, machine
from scripts.benchmarks.questions import QuestionMaker
from train.model.build import random_model
from train.ranks.hardware import VISIBLE, first_gpus
from train.run_folder.metrics import METRICS_FILE

ROOT = Path(__file__).parents[2]
NUM_PROCESSES = 2
NUM_WARM_UP = 2  # steps that are not measured
ROWS_PER_STEP = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=("tiny", "60m", "7b"), help="default: 7b on CUDA, 60m on the CPU")
    parser.add_argument("--steps", type=int, default=6, help=f"measured, after {NUM_WARM_UP} to warm up")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Measure and print; return the figures of the one case."""
    on_cuda = torch.cuda.is_available()
    if on_cuda and torch.cuda.device_count() < NUM_PROCESSES:
        raise UserError("scale: two GPUs are needed; hide the one there is with CUDA_VISIBLE_DEVICES= to use the CPU")
    shape = arguments.shape or ("7b" if on_cuda else "60m")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_run(folder, shape, on_cuda, arguments)
        times: dict[str, list[float]] = {"ours_s": [], "plain_s": []}
        for _ in range(arguments.repetitions):  # in turns, so that a slow minute of the machine meets both
            times["ours_s"].append(seconds_a_step(folder, recipe, NUM_PROCESSES, on_cuda))
            times["plain_s"].append(seconds_a_step(folder, recipe, 1, on_cuda))
    compare = compared(plain=times["plain_s"], ours=times["ours_s"])
    figures = {
        "case": "scale",
        **compare,
        "efficiency": compare["ratio"] / NUM_PROCESSES,
        "processes": NUM_PROCESSES,
        "rows_per_step": ROWS_PER_STEP,
        "shape": shape,
        "machine": machine(),
        "torch": torch.__version__,
    }
    print(
        "1 process {plain_s:.3f} s a step, 2 processes {ours_s:.3f} s: {ratio:.2f}x, {efficiency:.0%} of twice as "
        "fast".format(**figures)
    )
    return [figures]


def write_run(folder: Path, shape: str, on_cuda: bool, arguments: argparse.Namespace) -> Path:
    """Write a random model, clips with a question each, and the recipe of the run; return the recipe's path."""
    dtype = torch.bfloat16 if on_cuda else torch.float32
    model, processor = random_model(shape, dtype, arguments.seed)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    maker = QuestionMaker(processor, measure_visual_tokens(processor, NUM_FRAMES), folder, arguments.seed)
    samples = maker.about_clips(ROWS_PER_STEP, 1).samples
    turns = [{"from": "human", "value": "<video>\nWhat is it?"}, {"from": "gpt", "value": "A shape that moves."}]
    records = [{"video": sample.media[0].path, "conversations": turns} for sample in samples]
    (folder / "train.json").write_text(json.dumps(records))
    recipe = {
        "model": {"name_or_path": str(folder / "model"), "dtype": str(dtype).removeprefix("torch.")},
        "lora": {"r": 8, "alpha": 16},
        "data": {
            "train": [{"path": str(folder / "train.json")}],
            "packing": "none",
            "rows_per_step": ROWS_PER_STEP,
        },
        "resume": "never",
        "training": {
            "output_dir": str(folder / "out"),
            "max_steps": NUM_WARM_UP + arguments.steps,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def seconds_a_step(folder: Path, recipe: Path, num_processes: int, on_cuda: bool) -> float:
    """Launch a run and return the median seconds of its steps, loading the data included."""
    config = ("single_gpu", "multi_gpu") if on_cuda else ("cpu", "cpu_2")
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(num_processes)),
        *("--config_file", str(ROOT / "accelerate_configs" / f"{config[num_processes - 1]}.yaml")),
        *(str(ROOT / "train" / "sft.py"), str(recipe)),
    ]
    shown = {VISIBLE: first_gpus(num_processes)} if on_cuda else {"OMP_NUM_THREADS": "1"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **shown}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise UserError(f"scale: training failed: {(result.stderr.strip() or result.stdout).splitlines()[-1]}")
    lines = [json.loads(line) for line in (folder / "out" / METRICS_FILE).read_text().splitlines()]
    return median([line["step_s"] for line in lines if "loss" in line][NUM_WARM_UP:])
