"""CPU seconds of every --help, of `reeltune`, its commands and scripts, and of the word about a mistake in a recipe.

python scripts/benchmark.py help [--json F]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from train.commands.app import COMMANDS, name_of

ROOT = Path(__file__).parents[2]
MISTAKEN = "model: {name_or_path: m}\ndata: {train: [{path: a}]}\ntraining: {output_dir: o, learning_rte: 1}\n"
REELTUNE = "from train.commands.app import main; main()"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repetitions", type=int, default=5, help="of each; the median is shown")


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure and print each; return the rows."""
    names = [name_of(command) for command in COMMANDS]
    calls = {" ".join(["reeltune", *words]): ["-c", REELTUNE, *words] for words in [[], *([name] for name in names)]}
    for path in sorted((ROOT / "scripts").glob("*.py")):
        if any(words in path.read_text(encoding="utf-8") for words in ("ArgumentParser", "run(sys.argv")):
            calls[f"python scripts/{path.name}"] = [str(path)]
    calls = {f"{name} --help": ([*words, "--help"], 0) for name, words in calls.items()}
    rows = []
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as recipe:
        recipe.write(MISTAKEN)
        recipe.flush()
        calls["reeltune train MISTAKEN"] = (["-c", REELTUNE, "train", recipe.name], 2)
        calls["python train/sft.py MISTAKEN"] = (["train/sft.py", recipe.name], 2)
        for name, (words, status) in calls.items():
            seconds = [cpu_seconds([sys.executable, *words], status) for _ in range(arguments.repetitions)]
            rows.append({"case": name, "cpu_s": statistics.median(seconds), "most_s": max(seconds)})
            print(f"| `{name}` | {rows[-1]['cpu_s']:.2f} | {rows[-1]['most_s']:.2f} |", flush=True)
    return rows


def cpu_seconds(command: list[str], status: int) -> float:
    """Return what a command that ends with `status` takes of a CPU, for itself and the system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert done.returncode == status, command
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
