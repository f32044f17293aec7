"""Two evaluations of the same questions, compared one question at a time."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from train.scoring.interval import mcnemar

SHOWN = 5  # questions that were won, and as many that were lost
SAME = 1e-9  # scores that differ by less are equal: they come from JSON and from sums


def is_answers(name: str) -> bool:
    """Tell whether this names a file of answers, also one that is not there; else it is a model."""
    return Path(name).is_file() or name.endswith((".jsonl", ".json"))


def read_answers(file: Path) -> list[dict]:
    """Return the records of an earlier --out. Raises UserError where it is none."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # texts may hold other ends of lines
        records = [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise UserError(f"--against: cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--against: {file} is no file of answers: {error}; give an earlier --out") from error
    needed = {"id", "question", "expected", "predicted", "correct"}
    if not records or not all(isinstance(each, dict) and needed <= each.keys() for each in records):
        raise UserError(f"--against: {file} has no answers, with {', '.join(sorted(needed))}; give an earlier --out")
    return records


def compare(ours: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return wins (we have the higher score), losses, ties, those that only one has, both accuracies and the p-value.

    Questions are the same when id, question and expected answer are; of equal ones the first is compared with the
    first. p is that of McNemar's exact test; where answers are graded, of the sign test, which is the same of wins and
    losses. The accuracies are over the questions that both have.
    """
    waiting: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in others:
        waiting[_key(record)].append(record)
    pairs = [(record, waiting[_key(record)].pop(0)) for record in ours if waiting[_key(record)]]
    if not pairs:
        raise UserError("--against: the files have no question in common; evaluate both models on the same data")
    points = [(points_of(mine), points_of(theirs)) for mine, theirs in pairs]
    changed = {
        "lost": [pair for pair, (mine, theirs) in zip(pairs, points, strict=True) if theirs > mine + SAME],
        "won": [pair for pair, (mine, theirs) in zip(pairs, points, strict=True) if mine > theirs + SAME],
    }
    wins, losses = len(changed["won"]), len(changed["lost"])
    return {
        "questions": len(pairs),
        "wins": wins,
        "losses": losses,
        "ties": len(pairs) - wins - losses,
        "only_here": len(ours) - len(pairs),
        "only_there": len(others) - len(pairs),
        "accuracy": sum(mine for mine, _ in points) / len(pairs),
        "accuracy_there": sum(theirs for _, theirs in points) / len(pairs),
        "p": mcnemar(wins, losses),
        "changed": {name: [_changed(*pair) for pair in some[:SHOWN]] for name, some in changed.items()},
    }


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    asked = {name: ours[name] for name in ("id", "question", "expected")}
    return {**asked, "here": ours["predicted"], "there": theirs["predicted"]}


def points_of(record: Mapping[str, Any]) -> float:
    """Return the score that a record of an answer has."""
    return float(record.get("score", record["correct"]))


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps([str(record["id"]), record["question"], record["expected"]])
