"""Ours against the plain way, side by side, in one run.

python scripts/benchmark.py train|decode|gpu|load|loader|save|scale [--json F]
"""

import argparse
import json
from pathlib import Path

from data.command import run_command
from data.files import write_whole
from scripts.benchmarks import decode, gpu, load, loader, save, scale, training
from train.model.load import quiet_libraries

CASES = {
    "train": training,
    "decode": decode,
    "gpu": gpu,
    "load": load,
    "loader": loader,
    "save": save,
    "scale": scale,
}


def main() -> None:
    arguments = parse_command_line()
    quiet_libraries()
    figures = CASES[arguments.case].run(arguments)
    if arguments.json:
        write_whole(arguments.json, json.dumps(figures, indent=2) + "\n")


def parse_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = parser.add_subparsers(dest="case", required=True)
    for name, case in CASES.items():
        options = cases.add_parser(name, description=case.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        options.add_argument("--json", type=Path, help="write the figures of each case")
        case.add_options(options)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
