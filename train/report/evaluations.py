"""output_dir/evaluations/STEP: the answers and the scores of each evaluation, as a run leaves them."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.run_folder.evaluations import SCORES, evaluations

ENDING = ".jsonl"  # behind the name of a source


@dataclass(frozen=True)
class Score:
    """The accuracy of a source or a modality, 0 to 1, its 95 % interval and the number of answers behind it."""

    accuracy: float
    low: float
    high: float
    questions: int
    metric: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation. whole: of all questions; left_out: questions that could not be answered."""

    step: int
    folder: Path
    whole: Score | None
    sources: Mapping[str, Score]
    modalities: Mapping[str, Score]
    losses: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    left_out: int = 0

    def answers(self) -> list[dict[str, Any]]:
        """Return the records of all sources in the order of their names, each with its `source`."""
        return [
            {**record, "source": file.stem}
            for file in sorted(self.folder.glob(f"*{ENDING}"))
            for record in read_objects(file)
            if {"question", "expected", "predicted"} <= record.keys()
        ]


def read_evaluations(output_dir: Path, last_step: float = math.inf) -> list[Evaluation]:
    """Return the evaluations up to a step, ascending. Later ones are of a run that was continued from before them."""
    read = ((int(folder.name), folder, read_object(folder / SCORES)) for folder in evaluations(output_dir))
    return [_evaluation(step, folder, scores) for step, folder, scores in read if step <= last_step and scores]


def _evaluation(step: int, folder: Path, scores: Mapping[str, Any]) -> Evaluation:
    sources = parts_of(scores.get("sources"))
    losses = {name: number(part.get("loss")) for name, part in sources.items()}
    return Evaluation(
        step,
        folder,
        _score(scores),
        {name: score for name, part in sources.items() if (score := _score(part))},
        {name: score for name, part in parts_of(scores.get("modalities")).items() if (score := _score(part))},
        {name: loss for name, loss in losses.items() if loss is not None},
        number(scores.get("seconds")),
        int(number(scores.get("left_out")) or 0),
    )


def _score(part: Mapping[str, Any]) -> Score | None:
    accuracy, questions = number(part.get("accuracy")), number(part.get("questions"))
    if accuracy is None or not questions:
        return None
    ends = part.get("interval")
    low, high = ends if isinstance(ends, list) and len(ends) == 2 else (accuracy, accuracy)
    metric = part.get("metric")
    return Score(
        accuracy,
        min(accuracy, number(low) or 0.0),
        max(accuracy, number(high) or 0.0),
        int(questions),
        metric if isinstance(metric, str) else None,
    )


def parts_of(value: Any) -> dict[str, dict[str, Any]]:
    """Return the objects in an object by their names."""
    return {name: part for name, part in value.items() if isinstance(part, dict)} if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """Return a finite number, None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def read_object(file: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one for a file that has none or is missing."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_objects(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file's lines; what is no object, such as half of a line, is passed over."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return
    for line in lines:
        try:
            value = json.loads(line) if line else None
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value
