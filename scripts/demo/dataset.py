"""The demo's data set: random scenes as clips and pictures, and four files of questions about them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.progress.bars import counted
from scripts.demo.questions import CLIP_SKILLS, NEW_SKILL, PICTURE_SKILLS, Record, Skill, make_records
from scripts.demo.scenes import Scene, film, photograph, random_scene


@dataclass(frozen=True)
class Size:
    """The numbers of clips and pictures of a split."""

    num_clips: int
    num_pictures: int


# Enough for the base to learn the easy questions and for the adapter to learn the new one, in minutes.
SIZES = {"train": Size(700, 400), "held_out": Size(200, 50)}


def make_data(out_dir: Path, seed: int, sizes: Mapping[str, Size] = SIZES) -> list[Record]:
    """Draw all clips and pictures and write the four files of questions; return the training records."""
    easy, new = {}, {}
    for number, (split, size) in enumerate(sizes.items()):
        random = np.random.default_rng((seed, number))
        clips = draw(out_dir, f"clips/{split}", ".mp4", film, size.num_clips, random)
        pictures = draw(out_dir, f"pictures/{split}", ".png", photograph, size.num_pictures, random)
        easy[split] = ask(clips, "video", CLIP_SKILLS) + ask(pictures, "image", PICTURE_SKILLS)
        new[split] = ask(clips, "video", NEW_SKILL)
    train = new["train"] + easy["train"]
    write(out_dir / "easy.json", easy["train"])
    write(out_dir / "train.json", train)
    write(out_dir / "held_out_easy.json", easy["held_out"])
    write(out_dir / "held_out_new.json", new["held_out"])
    return train


def draw(
    out_dir: Path,
    folder: str,
    ending: str,
    save: Callable[[Scene, Path], None],
    num_scenes: int,
    random: np.random.Generator,
) -> dict[str, Scene]:
    """Save new scenes as files of a folder; return them by their paths below `out_dir`."""
    (out_dir / folder).mkdir(parents=True, exist_ok=True)
    scenes = {f"{folder}/{number:04}{ending}": random_scene(random) for number in range(num_scenes)}
    for file, scene in counted(scenes.items(), f"drawing {folder}", len(scenes), "files"):
        save(scene, out_dir / file)
    return scenes


def ask(scenes: Mapping[str, Scene], kind: str, skills: Mapping[str, Skill]) -> list[Record]:
    """Return a record for each question about each scene."""
    return [record for file, scene in scenes.items() for record in make_records(scene, kind, file, skills)]


def write(path: Path, records: list[Record]) -> None:
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")
