"""Make what the demo needs: short clips and pictures, questions about them, and a tiny Video-LLaVA that can
answer the easy ones.

    python scripts/make_demo.py outputs/demo

Writes to the folder:
    clips/ pictures/    coloured shapes that move, as H.264 mp4 files, and that stand still, as PNG files
    easy.json           colour, shape and place: the base learns these
    train.json          the new skill, which way does it move?, mixed with the easy questions
    held_out_new.json   the new skill, and held_out_easy.json, the easy questions, on clips that no training sees
    base/               the model that has learned the easy questions, with its processor
"""

import argparse
from pathlib import Path

from data.command import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other scenes and weights")
    arguments = parser.parse_args()
    from scripts.demo.base_model import make_demo

    make_demo(arguments.out_dir, arguments.seed)


if __name__ == "__main__":
    run_command(main)
