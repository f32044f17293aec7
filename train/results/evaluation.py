"""Answer and score a file of conversations: each of the assistant's turns is one question."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import VideoLlavaProcessor

from data.errors import UserError
from data.files import try_to_write
from data.media.reference import Media
from data.sources.conversation import Conversation, with_system_prompt
from train.results.generation import answer, media_in
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
            text=_text(messages[number - 1]),
            expected=_text(messages[number]),
            accept=accept[turn - 1],
        )
        for turn, number in enumerate(answered, start=1)
    ]


def evaluate(
    model: Answering,
    processor: VideoLlavaProcessor,
    questions: Sequence[Question],
    **settings: Any,
) -> tuple[list[dict], dict]:
    """Answer and score; `settings` go to `answer`. Returns a record for each question, in order, and the
    summary: accuracy (share of correct answers), questions, seconds (of answering, without loading the model).
    """
    if not questions:
        raise UserError("there is no question to answer: the data file has no conversation")
    start = time.perf_counter()
    answers = answer(model, processor, [(q.messages, q.media) for q in questions], **settings)
    seconds = time.perf_counter() - start
    records = [
        {
            "id": question.id,
            "media": [item.path for item in question.media],
            "question": question.text,
            "expected": question.expected,
            "predicted": predicted,
            "correct": is_correct(predicted, question.expected, question.accept),
        }
        for question, predicted in zip(questions, answers, strict=True)
    ]
    accuracy = sum(record["correct"] for record in records) / len(records)
    return records, {"accuracy": accuracy, "questions": len(records), "seconds": round(seconds, 3)}


def check_writable(path: Path) -> None:
    """Raise UserError where a file cannot be written: before an hour of answering, not after it."""
    try:
        try_to_write(path)
    except OSError as problem:
        raise UserError(f"cannot write {path}: {problem.strerror}") from problem


def json_lines(records: Sequence[dict]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _accept_lists(conversation: Conversation, num_questions: int) -> list[Sequence[str] | None]:
    accept = conversation.record.get("accept")
    if accept is None:
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
