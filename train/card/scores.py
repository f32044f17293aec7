"""The scores of a run's last evaluation by answers, from output_dir/evaluations/STEP/scores.json."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.checkpoint_files import read_json
from data.errors import UserError
from train.run_folder.evaluations import SCORES, evaluations


@dataclass(frozen=True)
class Scored:
    """The share of right answers to the questions of a source after a step; metric: None where there are several."""

    step: int
    source: str
    accuracy: float
    questions: int
    metric: str | None


def last_scores(folder: Path, last_step: int | None) -> tuple[Scored, ...]:
    """Return the scores of each source in the newest evaluation up to a step; none where there is no such."""
    known = [each for each in evaluations(folder) if last_step is None or int(each.name) <= last_step]
    if not known:
        return ()
    try:
        sources = read_json(known[-1] / SCORES).get("sources")
    except UserError:
        return ()  # missing or damaged: then it says nothing
    return tuple(_scores(int(known[-1].name), sources if isinstance(sources, dict) else {}))


def _scores(step: int, sources: dict[str, Any]) -> Iterator[Scored]:
    for name, part in sources.items():
        accuracy, questions = (part.get(key) if isinstance(part, dict) else None for key in ("accuracy", "questions"))
        if not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:  # nor is NaN
            continue
        if type(questions) is int and questions > 0:
            metric = part.get("metric")
            yield Scored(step, name, float(accuracy), questions, metric if isinstance(metric, str) else None)
