"""What a run leaves behind, and settings of short runs."""

import json
from pathlib import Path

# The loss falls, so that by this measure the first evaluation is the best.
HIGHEST_LOSS = ["training.metric_for_best_model=loss", "training.greater_is_better=true"]


def result(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def metrics(folder: Path, key: str) -> list[tuple]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line[key]) for line in lines if key in line]


def state(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "trainer_state.json").read_text())
