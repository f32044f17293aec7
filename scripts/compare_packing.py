"""The demo's recipe with packed rows and with single samples, over several seeds: the same skill, in less time.

    python scripts/compare_packing.py [--seeds 0 1 2] [--json F]

Needs what `make demo` (or scripts/make_demo.py outputs/demo) has left in outputs/demo. With `packing: none` a step has
as many questions as a packed row has on average, so that both see the same number of questions.
"""

import argparse
import json
from pathlib import Path

from data.command import run_command
from data.files import write_whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="write the figures of each run")
    arguments = parser.parse_args()
    from scripts.demo.packing_comparison import compare_packing, describe
    from train.model.load import quiet_libraries

    quiet_libraries()
    runs = compare_packing(arguments.seeds)
    if arguments.json:
        write_whole(arguments.json, json.dumps(runs, indent=2) + "\n")
    for packing in ("shared_prefix", "none"):
        print(describe(packing, runs))


if __name__ == "__main__":
    run_command(main)
