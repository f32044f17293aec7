"""Ours against the plain way, side by side, in one run.

python scripts/benchmark.py train|decode|load|loader|save|scale [--json F]
"""

import argparse
import json
from pathlib import Path

import benchmark_decode
import benchmark_load
import benchmark_loader
import benchmark_save
import benchmark_scale
import benchmark_train

from data.errors import run_command
from train.model import quiet_libraries

CASES = {
    "train": benchmark_train,
    "decode": benchmark_decode,
    "load": benchmark_load,
    "loader": benchmark_loader,
    "save": benchmark_save,
    "scale": benchmark_scale,
}


def main() -> None:
    arguments = parse_command_line()
    quiet_libraries()
    rows = CASES[arguments.case].run(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def parse_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = parser.add_subparsers(dest="case", required=True)
    for name, case in CASES.items():
        options = cases.add_parser(name, description=case.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        options.add_argument("--json", type=Path, help="the rows are written here")
        case.add_options(options)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
