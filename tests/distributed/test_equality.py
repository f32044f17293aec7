"""Two processes compute what one computes: losses, gradient norms, answers and the final adapter."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.launching import launch
from tests.tiny_data import mixed_records
from tests.warm import COLD, Warm
from train.sft import main

SAME = ("loss", "grad_norm", "learning_rate", "questions", "clips", "pictures", "supervised_tokens", "eval_loss",
        "eval_accuracy", "eval_accuracy_low", "eval_questions", "eval_left_out", "eval_modality/clip/loss")  # fmt: skip


@pytest.fixture(scope="module")
def recipe_file(model_folder, media_folder, tmp_path_factory) -> Path:
    """8 steps on clips, pictures and text, in float32. An epoch of 16 rows has five steps of three rows and one of
    one row: on two ranks there are empty micro-batches, and ranks with clips beside ranks with pictures or text. A clip
    cannot be decoded, so that one rank finds out what the other must know."""
    folder = tmp_path_factory.mktemp("equality")
    (folder / "clip3.mp4").write_bytes(bytes(4000))
    records = mixed_records(media_folder)
    for record in records:
        if str(record.get("video")).endswith("clip3.mp4']"):
            record["video"] = "clip3.mp4"
    (mixed_file := folder / "mixed.json").write_text(json.dumps(records))
    recipe = {
        "model": {"name_or_path": str(model_folder), "dtype": "float32"},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "modules_to_save": ["multi_modal_projector"]},
        "data": {
            "train": [{"path": str(mixed_file)}],
            "eval": [{"path": str(mixed_file), "name": "held_out", "metric": "auto"}],
            "max_new_tokens": 4,
            "max_length": 512,
            "packing": "none",
            "rows_per_step": 3,
            "max_bad_media": 0.2,
        },
        "training": {
            "output_dir": str(folder / "one"),
            "max_steps": 8,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 8,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def trained_by_one(recipe_file: Path, *overrides: str) -> Path:
    """Return the folder of the run of one process, which is trained once."""
    out = recipe_file.parent / "-".join(["one", *(each.rpartition("=")[2] for each in overrides)])
    if not out.exists():
        main([str(recipe_file), f"training.output_dir={out}", *overrides])
    return out


def columns(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: line[name] for name in SAME if name in line} for line in lines if line.keys() & {"loss", "eval_loss"}
    ]


def answers(folder: Path, step: int) -> list[dict]:
    """Return the answers of an evaluation, whichever rank they are from."""
    lines = (folder / "evaluations" / str(step) / "held_out.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def bad_media(folder: Path) -> list[dict]:
    """Return the lines without the rows: those of one step are found in another order."""
    lines = [json.loads(line) for line in (folder / "bad_media.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("file", "reason", "data", "epoch", "step")} for line in lines]


@pytest.mark.parametrize("config", ["cpu_2", "zero2", "zero3"])
def test_two_processes_are_one(config, recipe_file, tmp_path):
    check_two_are_one(config, recipe_file, tmp_path, start=COLD if config == "cpu_2" else Warm)


def test_two_processes_are_one_in_4_bits(recipe_file, tmp_path):
    check_two_are_one("zero2", recipe_file, tmp_path, quantization="nf4", start=Warm)


def check_two_are_one(
    config, recipe_file, tmp_path, quantization=None, num_processes=2, on_gpus=False, start=COLD
) -> None:
    settings = ["training.gradient_checkpointing=true"]
    if start is Warm:  # a server of workers would import everything once more, in each process
        settings.append("training.dataloader_num_workers=1")
    quantized = [f"model.quantization={quantization}"] if quantization else []
    two = tmp_path / "two"
    arguments = (recipe_file, f"training.output_dir={two}", *settings, *quantized)
    processes = {"num_processes": num_processes, "on_gpus": on_gpus, "start": start}
    launch(config, "train/sft.py", *arguments, folder=tmp_path, **processes)
    one = trained_by_one(recipe_file, *quantized)

    ours, theirs = columns(two), columns(one)
    assert len(ours) == 10 and ours[-1]["eval_questions"] and ours[-1]["eval_left_out"]
    for our, their in zip(ours, theirs, strict=True):
        assert our == pytest.approx(their, abs=1e-4)
    for step in (0, 8):
        assert answers(two, step) == answers(one, step)
    assert {line["file"] for line in bad_media(two)} == {str(recipe_file.parent / "clip3.mp4")}
    assert bad_media(two) == bad_media(one)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (two, one))
    assert ours.keys() == theirs.keys() and any("multi_modal_projector" in name for name in ours)
    for name in ours:
        assert (ours[name] - theirs[name]).abs().max() <= 1e-4, name
