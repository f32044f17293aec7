"""Merge an adapter into its base: a full model that transformers loads without PEFT.

The base is read unquantised, also where training quantised it; the sum is made in float32 and rounded once.
The result is compared with the adapter's answers and loaded again before OUT_DIR appears.
"""

import argparse
from pathlib import Path

from data.command import run_command
from train.model.load import quiet_libraries
from train.results.merge import TOLERANCES, merge_adapter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", help="a folder with adapter_config.json, or a hub id")
    parser.add_argument("out_dir", type=Path, help="the folder to write; must be new or empty")
    parser.add_argument("--base", help="folder or hub id of the base, instead of the one that the adapter names")
    parser.add_argument("--dtype", choices=TOLERANCES, help="number type to save in (default: that of the base)")
    arguments = parser.parse_args()
    quiet_libraries()
    merge_adapter(arguments.adapter, arguments.out_dir, arguments.base, arguments.dtype)


if __name__ == "__main__":
    run_command(main)
