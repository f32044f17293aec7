"""The real command on a tiny model: trained, interrupted, continued, merged and asked, each as a user would.

    python scripts/gpu_run.py FOLDER [--dry] [--compiled]

On a GPU in bfloat16 on nf4 weights, with a paged optimizer, checkpointing and workers; --dry on the CPU in float32.
--compiled trains with compiled layers instead, and no more: compiling takes as long as all else.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

from data.command import run_command
from data.errors import UserError
from train.run_folder.checkpoint import checkpoints

ROOT = Path(__file__).parents[1]
NUM_CLIPS = 12
QUESTIONS = {"What colour is the shape?": "red", "Which way does it move?": "right", "What is it?": "a square"}
WAIT = 120  # seconds for the first checkpoint
ON_GPU = {"optim": "paged_adamw_8bit", "gradient_checkpointing": True, "dataloader_num_workers": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dry", action="store_true", help="on the CPU")
    parser.add_argument("--compiled", action="store_true", help="train with compiled layers, and no more")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute() / ("compiled" if arguments.compiled else "run")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if not arguments.dry:
        from train.ranks.hardware import VISIBLE, first_gpus

        os.environ[VISIBLE] = first_gpus(1)  # a process that sees several is refused
    recipe, config = write_run(folder, arguments.dry, arguments.compiled), "cpu" if arguments.dry else "single_gpu"
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", f"accelerate_configs/{config}.yaml", "train/sft.py", str(recipe)),
    ]
    if arguments.compiled:
        call(*command)
        return
    interrupt(command, folder / "out")
    printed = call(*command)
    if "continuing from" not in printed:
        raise UserError("the same command did not continue the run that was interrupted")
    call("scripts/merge_adapter.py", str(folder / "out"), str(folder / "merged"))
    clip = str(folder / "clips" / "0.mp4")
    answers = [
        call("scripts/generate.py", str(folder / model), "--video", clip, "--prompt", next(iter(QUESTIONS)))
        for model in ("out", "merged")
    ]
    print(f"answers of the adapter and of the merged model: {answers}")


def write_run(folder: Path, dry: bool, compiled: bool) -> Path:
    """Make a tiny model, clips, questions about them and the recipe, and return its path."""
    import numpy as np

    from scripts.demo.scenes import film, random_scene

    dtype = "float32" if dry else "bfloat16"
    compiling = {"torch_compile": True, **({"torch_compile_backend": "eager"} if dry else {})}
    call("scripts/new_model.py", "--shape", "tiny", "--out", str(folder / "base"), "--dtype", dtype)
    (folder / "clips").mkdir()
    records = []
    for number in range(NUM_CLIPS):
        film(random_scene(np.random.default_rng(number)), folder / "clips" / f"{number}.mp4")
        for question, answer in QUESTIONS.items():
            turns = [{"from": "human", "value": f"<video>\n{question}"}, {"from": "gpt", "value": answer}]
            records.append({"video": f"{number}.mp4", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(records))
    recipe = {
        "model": {
            "name_or_path": str(folder / "base"),
            "dtype": dtype,
            "quantization": None if dry else "nf4",
            "attn_implementation": "flash",
        },
        "lora": {"r": 8, "alpha": 16},
        "data": {
            "train": [{"path": str(folder / "train.json"), "media_root": str(folder / "clips")}],
            "max_length": 512,
            "max_tokens_per_row": 512,
            "rows_per_step": 2,
        },
        "training": {
            "output_dir": str(folder / "out"),
            "max_steps": 6 if dry else 20,
            "save_steps": 2 if dry else 5,
            "learning_rate": 5e-3,
            "report_to": "none",
            **({} if dry else ON_GPU),
            **(compiling if compiled else {}),
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def interrupt(command: list[str], out: Path) -> None:
    """Start the run, and end it as a scheduler does once it has a checkpoint."""
    process = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + WAIT
    while not checkpoints(out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children() if process.poll() is None else []
    if not children or not checkpoints(out):
        process.kill()
        raise UserError("the run ended, or wrote no checkpoint, before it could be interrupted")
    for child in children:
        child.terminate()
    process.wait()


def call(*command: str) -> str:
    """Run a script of this checkout, or another command, and return what it says on stdout."""
    command = command if command[0] == sys.executable else (sys.executable, *command)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise UserError(f"status {done.returncode}: {' '.join(command)}")
    return done.stdout.strip()


if __name__ == "__main__":
    run_command(main)
