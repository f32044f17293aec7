"""Answer and score a file of conversations: each of the assistant's turns is one question."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import VideoLlavaProcessor

from data.errors import UserError, visible, with_way_out
from data.files import try_to_write
from data.media.bad_media import BadMedia
from data.media.locate import shown
from data.media.reference import Media, Modality, modality_of
from data.media.storage import check_media
from data.sources.conversation import Conversation, is_answer, with_system_prompt
from data.tokens.corpus import described
from train.answering.generation import Found, NotAsked, answer_together, media_in
from train.results.answer_file import AnswerFile
from train.results.asking import Asking
from train.results.loading import AnyModel
from train.results.pace import Pace
from train.scoring.comparison import points_of
from train.scoring.metric import RIGHT_FROM, Rule, rule_of, score
from train.scoring.names import GRADED, Metric
from train.scoring.summary import Scored, summarise


@dataclass(frozen=True)
class Question:
    """One of the assistant's turns; `messages` are everything before the answer, with the true earlier answers.

    rule: how its answer is scored. source: the name of the data that it is from. groups: parts of these that it counts
    in, such as {"duration": "short"}.
    """

    id: str | int
    messages: list[dict]
    media: Sequence[Media]
    text: str
    expected: str
    accept: Sequence[str] | None
    rule: Rule = Rule()
    source: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def modality(self) -> Modality:
        return modality_of(self.media)


def questions_of(
    conversation: Conversation, system_prompt: str | None = None, source: str = "", metric: Metric | None = None
) -> list[Question]:
    """Return one question for each of the assistant's turns; ids of a conversation with several are id/1, id/2 ...

    A record's "accept", "answers" and "choices" are lists of strings for one question, or lists of such lists, one a
    question. `metric` takes the place of the record's.
    """
    messages = conversation.messages
    answered = [number for number, message in enumerate(messages) if is_answer(message)]
    accept = _accept_lists(conversation, len(answered))
    expected = [_text(messages[number]) for number in answered]
    rules = [
        rule_of(_of_turn(conversation.record, turn, len(answered)), conversation.name, text, metric)
        for turn, text in enumerate(expected)
    ]
    groups = _groups(conversation)
    name = conversation.record.get("id", conversation.name)
    return [
        Question(
            id=name if len(answered) == 1 else f"{name}/{turn}",
            messages=with_system_prompt(messages[:number], system_prompt),
            media=media_in(messages[:number], conversation.media),
            text=_text(messages[number - 1]) if number else "",
            expected=expected[turn - 1],
            accept=accept[turn - 1],
            rule=rules[turn - 1],
            source=source,
            groups=groups,
        )
        for turn, number in enumerate(answered, start=1)
    ]


def questions_in(
    conversations: Iterable[Conversation],
    source: str,
    ways: Asking,
    metric: Metric | None,
    report: Callable[[str], None] = print,
) -> Iterator[Question]:
    """Yield the questions of a source; tell at its end which conversations have no answer to compare with."""
    unanswered = []
    for each in conversations:
        if each.has_answer:
            shown = replace(each, media=tuple(ways.shown(each.media)))
            yield from questions_of(shown, ways.system_prompt, source, metric)
        else:
            unanswered.append(each.name)
    if unanswered:
        report(f"left out: {visible(described(unanswered, 'without an answer'))}")


@dataclass
class Kept:
    """Answers in memory, for those who want them by their questions' places; as `AnswerFile` has them in a file."""

    records: dict[int, dict] = field(default_factory=dict)

    def append(self, answers: Mapping[int, dict]) -> None:
        self.records.update(answers)

    def finish(self) -> list[dict]:
        return [self.records[place] for place in sorted(self.records)]


def key_of(question: Question) -> dict:
    """Return how the record of a question begins."""
    return {
        "id": question.id,
        "media": [item.path for item in question.media],
        "question": question.text,
        "expected": question.expected,
    }


def nothing_to_answer(questions: Sequence[Question], reasons: Iterable[str]) -> UserError:
    """Return the error for a data set without a question that can be answered."""
    if not questions:
        return UserError("there is no question to answer: the data file has no conversation")
    return UserError(f"none of the {len(questions)} questions can be answered: {next(iter(reasons))}")


def find_bad_media(questions: Sequence[Question]) -> dict[Media, str]:
    """Look at every file for next to nothing; returns what is wrong with those that cannot be answered about."""
    bad = {}
    for item in dict.fromkeys(item for question in questions for item in question.media):
        try:
            check_media(item)
        except UserError as problem:
            bad[item] = str(problem)
    return bad


def evaluate(
    model: AnyModel,
    processor: VideoLlavaProcessor,
    questions: Sequence[Question],
    *,
    kept: AnswerFile | Kept | None = None,
    bad: Mapping[Media, str] | None = None,
    report: Callable[[str], None] = print,
    **settings: Any,
) -> tuple[list[dict], dict]:
    """Answer and score; `settings` go to `answer_together`.

    Returns a record for each question that could be answered, in order, and the summary.

    The summary is that of `summarise`, with bad_media (the files that are to blame for what is left out), seconds
    (of answering in this start, without loading the model) and, of all and of each source and modality, questions_per_s
    (of those answered in this start; null where there were none). `kept` has the answers of an earlier start, and gets
    those of this one; `bad` is known to be undecodable.
    """
    reasons = dict(bad or {})
    if not questions:
        raise nothing_to_answer(questions, reasons.values())
    records = dict(kept.records) if kept else {}
    left_out = {place for place, question in enumerate(questions) if not reasons.keys().isdisjoint(question.media)}
    places = [place for place in range(len(questions)) if place not in left_out and place not in records]
    for reason in dict.fromkeys(reasons.values()):
        report(f"left out: {reason}")
    pace, too_long = Pace(), list[str]()
    prompts = [(questions[place].messages, questions[place].media) for place in places]

    def take(answers: Mapping[int, Found]) -> None:
        scored = {}
        for index, said in answers.items():
            question = questions[places[index]]
            if isinstance(said, NotAsked):
                left_out.add(places[index])
                too_long.append(f"{question.id} {said.reason}")
                report(f"left out: {too_long[-1]}")
                continue
            if isinstance(said, BadMedia):
                left_out.add(places[index])
                if said.item not in reasons:
                    reasons[said.item] = said.reason
                    report(f"left out: {question.id}: {said.reason}")
                continue
            scored[places[index]] = scored_answer(question, said)
        pace.take([parts_of(questions[place]) for place in scored])
        records.update(scored)
        if kept and scored:
            kept.append(scored)

    answer_together(model, processor, prompts, take=take, **settings)
    if not records:
        raise nothing_to_answer(questions, [*reasons.values(), *too_long])
    ordered = kept.finish() if kept else [records[place] for place in sorted(records)]
    summary = summary_of(questions, records) | {"bad_media": len({item.path for item in reasons}), **pace.whole()}
    for kind in ("sources", "modalities"):
        for name, part in summary[kind].items():
            part["questions_per_s"] = pace.of(kind, name)
    return ordered, summary


def parts_of(question: Question) -> dict[str, str]:
    """Return what a question counts in, by the summary's names."""
    return {"sources": question.source, "modalities": question.modality}


def scored_answer(question: Question, said: str) -> dict:
    """Return the record of an answer."""
    points = score(said, question.expected, question.accept, question.rule)
    record = {**key_of(question), "predicted": said, "correct": points >= RIGHT_FROM}
    if question.rule.metric in GRADED:
        record["score"] = points
    return record


def summary_of(questions: Sequence[Question], records: Mapping[int, dict]) -> dict[str, Any]:
    """Sum up the records of the questions that were answered, by the questions' places."""
    return summarise([scored_of(question, records.get(place)) for place, question in enumerate(questions)])


def scored_of(question: Question, record: Mapping[str, Any] | None) -> Scored:
    """Return where a question counts, with the score of its record, None where it has none."""
    return Scored(
        None if record is None else points_of(record),
        question.source,
        question.modality,
        question.rule.metric or ("accept" if question.accept else "exact_match"),
        question.groups,
    )


def check_writable(path: Path) -> None:
    """Raise UserError where a file cannot be written: before an hour of answering, not after it."""
    try:
        try_to_write(path)
    except OSError as problem:
        raise UserError(f"cannot write {path}: {with_way_out(problem)}") from problem


def digest_of(questions: Sequence[Question]) -> str:
    """Return a SHA-256 of everything that is asked and how it is scored."""
    asked = [
        (key_of(question), question.messages, question.accept, asdict(question.rule), question.source)
        for question in questions
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _accept_lists(conversation: Conversation, num_questions: int) -> list[Sequence[str] | None]:
    accept = conversation.record.get("accept")
    if accept is None or not num_questions:
        return [None] * num_questions
    lists = [accept] if _is_texts(accept) else accept
    if not isinstance(lists, list) or len(lists) != num_questions or not all(map(_is_texts, lists)):
        raise UserError(
            f"{conversation.name}, accept: expected a list of texts, or of such lists, one for each of its "
            f"{num_questions} question(s); got {accept!r}"
        )
    return lists


def _of_turn(record: Mapping[str, Any], turn: int, num_questions: int) -> dict[str, Any]:
    """Return what a record has for one of its questions: its own list where there is one for each."""
    own = dict(record)
    for key in ("answers", "choices"):
        lists = record.get(key)
        if isinstance(lists, list) and len(lists) == num_questions and all(isinstance(each, list) for each in lists):
            own[key] = lists[turn]
    return own


def _groups(conversation: Conversation) -> dict[str, str]:
    groups = conversation.record.get("groups") or {}
    if not isinstance(groups, dict) or not all(isinstance(value, str | int | None) for value in groups.values()):
        raise UserError(
            f'{conversation.name}, groups: expected texts by name, such as {{"type": "colour"}}; got {shown(groups)}'
        )
    return {str(name): str(value) for name, value in groups.items() if value is not None}


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text.strip() for text in value)


def _text(message: dict) -> str:
    return "".join(part["text"] for part in message["content"] if part["type"] == "text").strip()
