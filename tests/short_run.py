"""The files that a run leaves behind, and settings of short runs."""

import json
from pathlib import Path

import yaml

# The loss falls, so that by this measure the first evaluation is the best.
HIGHEST_LOSS = ["training.metric_for_best_model=loss", "training.greater_is_better=true"]


def write_recipe(folder: Path, model_folder: Path, data_file: Path, lora: dict, data: dict, training: dict) -> Path:
    """Return a recipe of the tiny model in float32, into `folder`/out, with what it says beyond that."""
    recipe = {
        "model": {"name_or_path": str(model_folder), "dtype": "float32"},
        "lora": {"r": 4, "alpha": 4, **lora},
        "data": {
            "train": [{"path": str(data_file)}],
            "max_length": 512,
            "max_tokens_per_row": 512,
            "rows_per_step": 1,
            **data,
        },
        "training": {"output_dir": str(folder / "out"), "report_to": "none", "disable_tqdm": True, **training},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def result(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def metrics(folder: Path, key: str) -> list[tuple]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line[key]) for line in lines if key in line]


def state(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "trainer_state.json").read_text())
