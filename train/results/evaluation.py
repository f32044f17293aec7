"""Answer and score a file of conversations: each of the assistant's turns is one question."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import VideoLlavaProcessor

from data.errors import UserError
from data.files import try_to_write
from data.media.bad_media import BadMedia
from data.media.reference import Media
from data.media.storage import check_media
from data.sources.conversation import Conversation, with_system_prompt
from train.results.answer_file import AnswerFile
from train.results.generation import answer_batches, media_in
from train.results.loading import Answering
from train.results.scoring import is_correct


@dataclass(frozen=True)
class Question:
    """One of the assistant's turns; `messages` are everything before the answer, with the true earlier answers."""

    id: str | int
    messages: list[dict]
    media: Sequence[Media]
    text: str
    expected: str
    accept: Sequence[str] | None


def questions_of(conversation: Conversation, system_prompt: str | None = None) -> list[Question]:
    """Return one question for each of the assistant's turns; ids of a conversation with several are id/1, id/2 ...

    A record's "accept" is a list of strings for one question, or a list of such lists, one a question.
    """
    messages = conversation.messages
    answered = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    accept = _accept_lists(conversation, len(answered))
    name = conversation.record.get("id", conversation.name)
    return [
        Question(
            id=name if len(answered) == 1 else f"{name}/{turn}",
            messages=with_system_prompt(messages[:number], system_prompt),
            media=media_in(messages[:number], conversation.media),
            text=_text(messages[number - 1]) if number else "",
            expected=_text(messages[number]),
            accept=accept[turn - 1],
        )
        for turn, number in enumerate(answered, start=1)
    ]


def key_of(question: Question) -> dict:
    """Return how the record of a question begins."""
    return {
        "id": question.id,
        "media": [item.path for item in question.media],
        "question": question.text,
        "expected": question.expected,
    }


def nothing_to_answer(questions: Sequence[Question], reasons: Mapping[Media, str]) -> UserError:
    """Return the error for a data set without a question that can be answered."""
    if not questions:
        return UserError("there is no question to answer: the data file has no conversation")
    return UserError(f"none of the {len(questions)} questions can be answered: {next(iter(reasons.values()))}")


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
    model: Answering,
    processor: VideoLlavaProcessor,
    questions: Sequence[Question],
    *,
    kept: AnswerFile | None = None,
    bad: Mapping[Media, str] | None = None,
    report: Callable[[str], None] = print,
    **settings: Any,
) -> tuple[list[dict], dict]:
    """Answer and score; `settings` go to `answer_batches`.

    Returns a record for each question that could be answered, in order, and the summary.

    The summary has accuracy (share of correct answers), questions (answered), left_out (questions that were not),
    bad_media (the files that are to blame), seconds (of answering in this start, without loading the model). `kept`
    has the answers of an earlier start, and gets those of this one; `bad` is known to be undecodable.
    """
    reasons = dict(bad or {})
    if not questions:
        raise nothing_to_answer(questions, reasons)
    records = dict(kept.records) if kept else {}
    left_out = {place for place, question in enumerate(questions) if not reasons.keys().isdisjoint(question.media)}
    places = [place for place in range(len(questions)) if place not in left_out and place not in records]
    for reason in dict.fromkeys(reasons.values()):
        report(f"left out: {reason}")
    start = time.perf_counter()
    prompts = [(questions[place].messages, questions[place].media) for place in places]
    for answers in answer_batches(model, processor, prompts, **settings):
        scored = {}
        for index, said in answers.items():
            question = questions[places[index]]
            if isinstance(said, BadMedia):
                left_out.add(places[index])
                if said.item not in reasons:
                    reasons[said.item] = said.reason
                    report(f"left out: {question.id}: {said.reason}")
                continue
            is_right = is_correct(said, question.expected, question.accept)
            scored[places[index]] = {**key_of(question), "predicted": said, "correct": is_right}
        records |= scored
        if kept and scored:
            kept.append(scored)
    seconds = time.perf_counter() - start
    if not records:
        raise nothing_to_answer(questions, reasons)
    ordered = kept.finish() if kept else [records[place] for place in sorted(records)]
    summary = {
        "accuracy": sum(record["correct"] for record in ordered) / len(ordered),
        "questions": len(ordered),
        "left_out": len(left_out),
        "bad_media": len({item.path for item in reasons}),
        "seconds": round(seconds, 3),
    }
    return ordered, summary


def check_writable(path: Path) -> None:
    """Raise UserError where a file cannot be written: before an hour of answering, not after it."""
    try:
        try_to_write(path)
    except OSError as problem:
        raise UserError(f"cannot write {path}: {problem.strerror}") from problem


def digest_of(questions: Sequence[Question]) -> str:
    """Return a SHA-256 of everything that is asked and how it is scored."""
    asked = [(key_of(question), question.messages, question.accept) for question in questions]
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


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text.strip() for text in value)


def _text(message: dict) -> str:
    return "".join(part["text"] for part in message["content"] if part["type"] == "text").strip()
