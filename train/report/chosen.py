"""The answers that a page shows: those that training has made right, and those that are wrong."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.report.evaluations import number
from train.scoring.comparison import SAME
from train.scoring.interval import mcnemar
from train.scoring.metric import RIGHT_FROM

MAX_SHOWN = 6  # answers of a kind


@dataclass(frozen=True)
class Answer:
    """A question with its answer before training, None where it was not asked then, and after it.

    score, score_before: 0 to 1.
    """

    record: Mapping[str, Any]
    score: float
    before: str | None = None
    score_before: float | None = None

    @property
    def is_right(self) -> bool:
        return self.score >= RIGHT_FROM

    @property
    def was_right(self) -> bool:
        return self.score_before is not None and self.score_before >= RIGHT_FROM

    @property
    def gain(self) -> float:
        return self.score - (self.score_before or 0.0)

    @property
    def media(self) -> tuple[str, ...]:
        """The paths of its pictures and clips."""
        paths = self.record.get("media")
        return tuple(path for path in paths if isinstance(path, str)) if isinstance(paths, list) else ()

    @property
    def identity(self) -> str:
        return identity_of(self.record)

    def text(self, key: str) -> str:
        """Return what its record has at a key."""
        return str(self.record.get(key, ""))


@dataclass(frozen=True)
class Changes:
    """Counts of the questions that were asked before and after; p: of McNemar's exact test."""

    learned: int
    lost: int
    right: int
    wrong: int
    p: float


def identity_of(record: Mapping[str, Any]) -> str:
    """Return what tells a question from others, in any evaluation of one run."""
    return json.dumps([str(record.get(key)) for key in ("source", "id", "question", "expected")])


def paired(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """Return the answers of the later evaluation, each with that of the earlier one; of equal questions the first
    belongs to the first."""
    waiting: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in before:
        waiting[identity_of(record)].append(record)
    answers = []
    for record in after:
        earlier = waiting[identity_of(record)].pop(0) if waiting[identity_of(record)] else None
        if earlier is None:
            answers.append(Answer(record, _score(record)))
        else:
            answers.append(Answer(record, _score(record), str(earlier["predicted"]), _score(earlier)))
    return answers


def _score(record: Mapping[str, Any]) -> float:
    score = number(record.get("score"))
    return float(bool(record.get("correct"))) if score is None else score


def changes(answers: Sequence[Answer]) -> Changes | None:
    """Count what training has changed; None where nothing was asked before."""
    compared = [answer for answer in answers if answer.score_before is not None]
    if not compared:
        return None
    counts = Counter((answer.was_right, answer.is_right) for answer in compared)
    gains = sum(answer.gain > SAME for answer in compared)
    losses = sum(answer.gain < -SAME for answer in compared)
    return Changes(
        counts[False, True], counts[True, False], counts[True, True], counts[False, False], mcnemar(gains, losses)
    )


def best(answers: Sequence[Answer], limit: int = MAX_SHOWN) -> list[Answer]:
    """Return right answers, those first that training has gained most with."""
    return spread([answer for answer in answers if answer.is_right], lambda each: (-each.gain, -each.score), limit)


def worst(answers: Sequence[Answer], limit: int = MAX_SHOWN) -> list[Answer]:
    """Return wrong answers, those first that training has lost most with."""
    return spread([answer for answer in answers if not answer.is_right], lambda each: (each.gain, each.score), limit)


def spread(answers: Iterable[Answer], key: Callable[[Answer], Any], limit: int) -> list[Answer]:
    """Return the first by `key`; among equal ones the sources take turns, and each clip comes once before any comes
    twice."""
    seen: Counter[Any] = Counter()
    chosen = []
    waiting = sorted(answers, key=key)
    while waiting and len(chosen) < limit:
        equal = [answer for answer in waiting if key(answer) == key(waiting[0])]
        turn = min(equal, key=lambda each: (seen[each.media], seen[each.text("source")]))
        seen.update([turn.media, turn.text("source")])
        waiting.remove(turn)
        chosen.append(turn)
    return chosen
