"""The scores of many answers, summed up: of all, of each source and modality, and of what a benchmark divides by."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.media.reference import Modality
from train.scoring.interval import wilson


@dataclass(frozen=True)
class Scored:
    """The outcome of a question: its score, None where it could not be answered, and the parts that it counts in.

    groups: what a benchmark divides its questions by, such as {"duration": "short"}.
    """

    score: float | None
    source: str
    modality: Modality
    metric: str
    groups: Mapping[str, str] = field(default_factory=dict)


def summarise(scored: Sequence[Scored]) -> dict[str, Any]:
    """Return what is known of all questions together, and of those of each source, modality and group.

    A part has accuracy (the mean score of those answered), interval (95 %), questions (answered), left_out,
    accuracy_over_all (those left out count as wrong) and metric, or null where its questions have several.
    """
    parts: dict[str, dict[str, list[Scored]]] = {"sources": defaultdict(list), "modalities": defaultdict(list)}
    groups: dict[str, dict[str, list[Scored]]] = defaultdict(lambda: defaultdict(list))
    for each in scored:
        parts["sources"][each.source].append(each)
        parts["modalities"][each.modality].append(each)
        for name, value in each.groups.items():
            groups[name][value].append(each)
    summary: dict[str, Any] = dict(_part(scored))
    for name, divided in parts.items():
        summary[name] = {key: _part(part) for key, part in divided.items()}
    if groups:
        summary["groups"] = {
            name: {value: _part(divided[value]) for value in sorted(divided)} for name, divided in groups.items()
        }
    return summary


def _part(scored: Iterable[Scored]) -> dict[str, Any]:
    everything = list(scored)
    scores = [each.score for each in everything if each.score is not None]
    metrics = {each.metric for each in everything}
    accuracy = sum(scores) / len(scores) if scores else None
    return {
        "accuracy": accuracy,
        "interval": list(wilson(accuracy, len(scores))) if accuracy is not None else None,
        "questions": len(scores),
        "left_out": len(everything) - len(scores),
        "accuracy_over_all": sum(scores) / len(everything),
        "metric": metrics.pop() if len(metrics) == 1 else None,
    }
