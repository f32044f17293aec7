"""Make a Video-LLaVA with its processor: random of a given shape, or from a CLIP and a LLaMA-like checkpoint.

    python scripts/new_model.py --out D --shape tiny
    python scripts/new_model.py --out D --vision openai/clip-vit-large-patch14 --text lmsys/vicuna-7b-v1.5

From parts, the vision checkpoint goes into both towers, the text checkpoint gets tokens for pictures, clips and
padding, and the projector is random: train it first (recipes/video_llava_7b_projector.yaml).
"""

import argparse
from pathlib import Path

import torch

from data.command import run_command
from data.errors import UserError
from data.processor_files import save_processor
from train.model.build import SHAPES, random_model
from train.model.load import quiet_libraries
from train.model.pretrained_parts import model_from_parts


def main() -> None:
    arguments = parse_command_line()
    quiet_libraries()
    if (arguments.out / "config.json").exists():
        raise UserError(f"--out {arguments.out}: there is a model already; choose a new folder")
    dtype = getattr(torch, arguments.dtype)
    if arguments.shape:
        model, processor = random_model(arguments.shape, dtype, arguments.seed)
    else:
        model, processor = model_from_parts(arguments.vision, arguments.text, dtype, arguments.seed)
    model.save_pretrained(arguments.out)
    save_processor(processor, arguments.out)
    print(f"{arguments.out}: {model.num_parameters():,} parameters in {arguments.dtype}, "
          f"{len(processor.tokenizer):,} tokens")  # fmt: skip


def parse_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    parser.add_argument("--vision", help="a CLIP (or its vision model): a folder or a hub id")
    parser.add_argument("--text", help="a LLaMA-like causal language model with its tokenizer: a folder or a hub id")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    arguments = parser.parse_args()
    if (arguments.shape is None) == (arguments.vision is None) or bool(arguments.vision) != bool(arguments.text):
        parser.error("give either --shape, or --vision and --text")
    return arguments


if __name__ == "__main__":
    run_command(main)
