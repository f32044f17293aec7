"""The folder of a run, made by hand: what `train.report` reads, without training."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RECIPE = {
    "model": {"name_or_path": "me/base", "dtype": "float32"},
    "lora": {"r": 4, "alpha": 8},
    "data": {"train": [{"path": "train.json"}], "num_frames": 8},
    "training": {"output_dir": "out", "learning_rate": 0.002},
}


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def logged(num_steps: int, every: int = 10) -> list[dict[str, Any]]:
    """Return lines of metrics.jsonl: the loss falls, a step takes 0.5 s and waits 0.05 s for data, 8 questions each."""
    return [
        {
            **{"step": step, "loss": 8 / step, "learning_rate": 1e-3, "step_s": 0.5, "data_wait_s": 0.05},
            **{"save_s": 0.1, "questions": 8.0, "supervised_tokens": 20.0, "samples_per_s": 16.0},
            "peak_memory_mib": 1024.0 + step,
        }
        for step in range(every, num_steps + 1, every)
    ]


def answered(number: int, predicted: str, expected: str = "up", **others: Any) -> dict[str, Any]:
    """Return a record of an answer, of a clip of its own unless `media` says otherwise."""
    record = {"id": f"q{number}", "media": [], "question": f"Question {number}?", "expected": expected}
    return {**record, "predicted": predicted, "correct": predicted == expected, **others}


def write_evaluation(folder: Path, step: int, answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write evaluations/STEP with the scores of these records; every interval is 0.1 to each side."""
    parts = {}
    for source, records in answers.items():
        write_lines(folder / "evaluations" / str(step) / f"{source}.jsonl", records)
        parts[source] = {**_part(records), "loss": 2.0 / (step + 1)}
    everything = [record for records in answers.values() for record in records]
    scores = {**_part(everything), "sources": parts, "modalities": {"clip": _part(everything)}}
    scores |= {"step": step, "seconds": 3.0, "bad_media": 0}
    (folder / "evaluations" / str(step) / "scores.json").write_text(json.dumps(scores))


def _part(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    share = sum(record["correct"] for record in records) / len(records)
    ends = [max(0.0, share - 0.1), min(1.0, share + 0.1)]
    return {"accuracy": share, "interval": ends, "questions": len(records), "left_out": 0, "metric": "exact_match"}


def write_run(
    folder: Path,
    recipe: Mapping[str, Any] | None = None,
    num_steps: int = 40,
    is_finished: bool = True,
    counts: Mapping[str, Any] | None = None,
) -> Path:
    """Write recipe, figures and, of a run that has ended, provenance; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(json.dumps({**RECIPE, **(recipe or {})}))
    write_lines(folder / "metrics.jsonl", logged(num_steps))
    if is_finished:
        said = {"step": num_steps, "versions": {"torch": "2.14.1"}, "device": "cpu", "processes": 2}
        said["counts"] = counts or {"train": {"conversations": 4700, "clips": 700}}
        (folder / "provenance.json").write_text(json.dumps(said))
    return folder


def without_clock(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of an evaluation without what depends on the clock."""
    told = {name: value for name, value in scores.items() if name not in ("seconds", "questions_per_s")}
    return {name: without_clock(value) if isinstance(value, dict) else value for name, value in told.items()}
