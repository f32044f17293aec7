"""The rules by which answers are scored, by name; docs/scoring.md has them in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from data.media.locate import shown
from train.scoring.accepted import is_correct, normalise
from train.scoring.choices import chosen
from train.scoring.names import METRICS, Metric
from train.scoring.overlap import rouge_l, token_f1

RIGHT_FROM = 0.5  # the score from which a graded answer counts as right, where it must be one or the other
AGREEING = 3  # people who gave an answer that then counts fully: the VQA evaluation's min(n / 3, 1)
MAX_CHOICES = 26  # letters


@dataclass(frozen=True)
class Rule:
    """A way to score the answer to a question, beyond the expected answer and what is accepted.

    metric: None is "accept" where a record accepts something, "exact_match" elsewhere. answers: those of people, for
    vqa_accuracy. choices: the options of multiple_choice.
    """

    metric: Metric | None = None
    answers: Sequence[str] = ()
    choices: Sequence[str] = ()


def rule_of(record: Mapping[str, Any], name: str, expected: str, metric: Metric | None = None) -> Rule:
    """Return how a record of one question says that it is scored. Raises UserError with its `name`.

    metric: in place of the record's own; accept is then about the expected answer where a record accepts nothing.
    """
    own = record.get("metric")
    if own is not None and own not in METRICS:
        raise UserError(f"{name}, metric: expected one of {', '.join(METRICS)}; got {shown(own)}")
    rule = Rule(metric or own, _texts(record, "answers", name), _texts(record, "choices", name))
    match rule.metric:
        case "accept" if metric is None and not record.get("accept"):
            raise UserError(f"{name}: the metric accept needs a list of texts in 'accept'")
        case "vqa_accuracy" if not rule.answers:
            raise UserError(f"{name}: the metric vqa_accuracy needs a list of people's answers in 'answers'")
        case "multiple_choice" if not 1 < len(rule.choices) <= MAX_CHOICES:
            raise UserError(f"{name}: the metric multiple_choice needs 2 to {MAX_CHOICES} texts in 'choices'")
        case "multiple_choice" if chosen(expected, rule.choices) is None:
            raise UserError(
                f"{name}: the expected answer {shown(expected)} is none of 'choices', {shown(list(rule.choices))}"
            )
        case "yes_no" if _yes_or_no(expected) is None:
            raise UserError(f"{name}: the metric yes_no needs yes or no as the expected answer; got {shown(expected)}")
    return rule


def score(predicted: str, expected: str, accept: Sequence[str] | None, rule: Rule) -> float:
    """Return the score of an answer, from 0 to 1; 0 or 1 unless the metric is graded."""
    match rule.metric:
        case None:
            return float(is_correct(predicted, expected, accept))
        case "accept":
            return float(is_correct(predicted, expected, accept or (expected,)))
        case "exact_match":
            return float(is_correct(predicted, expected))
        case "vqa_accuracy":
            return vqa_accuracy(predicted, rule.answers)
        case "multiple_choice":
            return float(chosen(predicted, rule.choices) == chosen(expected, rule.choices))
        case "yes_no":
            return float(_yes_or_no(predicted) == _yes_or_no(expected))
        case "token_f1" | "rouge_l":
            overlap = token_f1 if rule.metric == "token_f1" else rouge_l
            return max(overlap(predicted, text) for text in (expected, *(accept or ()), *rule.answers))


def vqa_accuracy(predicted: str, answers: Sequence[str]) -> float:
    """Return the mean of min(n / 3, 1) over all ways to leave out one person's answer, n of the rest being `predicted`.

    As vqaEval.py in https://github.com/GT-Vision-Lab/VQA, with both sides normalised.
    """
    said = normalise(predicted)
    same = [normalise(answer) == said for answer in answers]
    return sum(min((sum(same) - each) / AGREEING, 1) for each in same) / len(same)


def _yes_or_no(text: str) -> str | None:
    """Return what a text begins with, as TempCompass's eval_yes_no.py reads it."""
    return next((word for word in ("yes", "no") if text.strip().lower().startswith(word)), None)


def _texts(record: Mapping[str, Any], key: str, name: str) -> tuple[str, ...]:
    """Return a record's list of texts; a text may stand in an object, {"answer": "red"}, as VQA's files have it."""
    value = record.get(key)
    if value is None:
        return ()
    items = value if isinstance(value, list) else []
    named = [item.get("answer") if isinstance(item, dict) else item for item in items]
    texts = tuple(text for text in named if isinstance(text, str))
    if not texts or len(texts) < len(items):
        raise UserError(f"{name}, {key}: expected a list of texts, got {shown(value)}")
    return texts
