"""CPU seconds of every --help: of `reeltune`, of its commands, and of the scripts.

python scripts/benchmark.py help [--json F]
"""

import argparse
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from train.commands.app import COMMANDS, name_of

ROOT = Path(__file__).parents[2]
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
    rows = []
    for name, words in calls.items():
        seconds = [cpu_seconds([sys.executable, *words, "--help"]) for _ in range(arguments.repetitions)]
        rows.append({"case": f"{name} --help", "cpu_s": statistics.median(seconds), "most_s": max(seconds)})
        print(f"| `{name} --help` | {rows[-1]['cpu_s']:.2f} | {rows[-1]['most_s']:.2f} |", flush=True)
    return rows


def cpu_seconds(command: list[str]) -> float:
    """Return what a command takes of a CPU, for itself and the system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
