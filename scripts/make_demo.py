"""Make what the demo needs: short clips and pictures, questions about them, and a tiny Video-LLaVA that can
answer the easy ones.

    python scripts/make_demo.py outputs/demo

Writes to the folder:
    clips/ pictures/    coloured shapes that move, as H.264 mp4 files, and that stand still, as PNG files
    easy.json           colour, shape and place: what the base learns
    train.json          the new skill, which way does it move?, mixed with the easy questions
    held_out_new.json   the new skill, and held_out_easy.json, the easy questions, on clips that no training sees
    base/               the model that has learned the easy questions, with its processor
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.command import run_command
from scripts.demo.questions import CLIP_SKILLS, NEW_SKILL, PICTURE_SKILLS, Skill, all_texts, make_records
from scripts.demo.scenes import Scene, film, photograph, random_scene
from train import sft
from train.model.build import SHAPES, build_config, build_model, build_processor, train_tokenizer

BASE_RECIPE = Path(__file__).parents[1] / "recipes" / "demo_base.yaml"
NUM_CLIPS = {"train": 700, "held_out": 200}
NUM_PICTURES = {"train": 400, "held_out": 50}
SHAPE = "tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other scenes and weights")
    arguments = parser.parse_args()
    make_demo(arguments.out_dir, arguments.seed)


def make_demo(out_dir: Path, seed: int = 0) -> None:
    """Everything in `out_dir`, a function of `seed`; about three minutes on two cores, most of them for the base."""
    records = make_data(out_dir, seed)
    tokenizer = train_tokenizer(all_texts(records))
    model = build_model(build_config(SHAPE, tokenizer), seed)
    for part in (model, build_processor(tokenizer, SHAPES[SHAPE][2])):
        part.save_pretrained(out_dir / "untrained")
    teach(out_dir / "untrained", out_dir / "easy.json", out_dir / "base", seed)


def make_data(out_dir: Path, seed: int) -> list[dict]:
    """Draw all clips and pictures and write the four files of questions; returns the training records."""
    files = {}
    for number, split in enumerate(("train", "held_out")):
        random = np.random.default_rng((seed, number))
        clips = draw(out_dir, f"clips/{split}", ".mp4", film, NUM_CLIPS[split], random)
        pictures = draw(out_dir, f"pictures/{split}", ".png", photograph, NUM_PICTURES[split], random)
        easy = ask(clips, "video", CLIP_SKILLS) + ask(pictures, "image", PICTURE_SKILLS)
        files[split] = easy, ask(clips, "video", NEW_SKILL)
    (easy, new), (held_out_easy, held_out_new) = files.values()
    write(out_dir / "easy.json", easy)
    write(out_dir / "train.json", new + easy)
    write(out_dir / "held_out_easy.json", held_out_easy)
    write(out_dir / "held_out_new.json", held_out_new)
    return new + easy


def draw(
    out_dir: Path,
    folder: str,
    ending: str,
    record: Callable[[Scene, Path], None],
    num: int,
    random: np.random.Generator,
) -> dict[str, Scene]:
    """`num` new scenes, by the names of their files below `out_dir`."""
    (out_dir / folder).mkdir(parents=True, exist_ok=True)
    scenes = {f"{folder}/{number:04}{ending}": random_scene(random) for number in range(num)}
    for file, scene in tqdm(scenes.items(), desc=folder, unit="file"):
        record(scene, out_dir / file)
    return scenes


def ask(scenes: dict[str, Scene], kind: str, skills: dict[str, Skill]) -> list[dict]:
    return [record for file, scene in scenes.items() for record in make_records(scene, kind, file, skills)]


def write(path: Path, records: list[dict]) -> None:
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")


def teach(model: Path, questions: Path, out_dir: Path, seed: int) -> None:
    """Full fine-tuning by the project's own trainer."""
    overrides = {
        "model.name_or_path": model,
        "data.train": [{"path": str(questions)}],
        "training.output_dir": out_dir,
        "training.seed": seed,
    }
    sft.main([str(BASE_RECIPE), *(f"{key}={value}" for key, value in overrides.items())])


if __name__ == "__main__":
    run_command(main)
