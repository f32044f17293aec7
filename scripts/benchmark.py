"""Ours against the plain way, side by side, in one run.

python scripts/benchmark.py train|compile|decode|eval|gpu|help|load|loader|memory|save|scale|talk [--json F]
"""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from data.command import run_command
from data.files import write_whole

# Each in its module of scripts/benchmarks, which is imported when it is asked for: they need torch.
CASES = {
    "train": "training",
    "compile": "compiling",
    "decode": "decode",
    "eval": "answers",
    "gpu": "gpu",
    "help": "command_help",
    "load": "load",
    "loader": "loader",
    "memory": "memory",
    "save": "save",
    "scale": "scale",
    "talk": "talk",
}


def main() -> None:
    arguments = parse_command_line()
    from train.model.load import quiet_libraries

    quiet_libraries()
    figures = arguments.run(arguments)
    if arguments.json:
        write_whole(arguments.json, json.dumps(figures, indent=2) + "\n")


def parse_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = parser.add_subparsers(dest="case", required=True)
    for name, module in CASES.items():
        options = cases.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter)
        options.add_argument("--json", type=Path, help="write the figures of each case")
        if name in sys.argv[1:2]:
            case = import_module(f"scripts.benchmarks.{module}")
            options.description = case.__doc__
            options.set_defaults(run=case.run)
            case.add_options(options)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
