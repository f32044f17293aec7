"""Conversations about pictures and clips, read from records of all forms (see `data.sources.forms`) into one.

LLaVA:     {"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat is it?"}, ...]}
Messages:  {"messages": [{"role": "user", "content": [{"type": "video", "path": "a.mp4"},
                                                     {"type": "text", "text": "What is it?"}]}, ...]}
Questions: {"video": "a.mp4", "query": "What is it?", "response": "a dog"}
What may stand there besides a path, `Locator` says. "start" and "end", seconds from the first frame, beside the one
clip of a record or in a video's part, take a part of it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.media.locate import Locator
from data.media.reference import Media
from data.sources.bounds import Bounds
from data.sources.forms import AS_THEY_ARE, Reading, is_trained, renamed, role_and_content, turns_of
from data.sources.guard import MAX_TEXT, MAX_TURNS, MAX_WORK, about_record
from data.sources.parts import (
    Listed,
    join_parts,
    listed_media,
    listed_span,
    num_marks,
    num_media,
    parts_of,
    place_media,
)
from data.sources.source import Source, find_files, read_records


@dataclass(slots=True)  # one is made of each record, and frozen ones take much longer
class Conversation:
    """`messages` are [{"role", "content": [{"type": "text", "text"} | {"type": "image"} | {"type": "video"}]}], one of
    the assistant's with "trained": False where it is context alone; `media` are their pictures and clips in order of
    appearance; `name` says where it came from; `record` has our keys; `num_letters` counts those of all its texts.
    """

    messages: list[dict]
    media: tuple[Media, ...]
    name: str
    record: dict
    num_letters: int

    @property
    def has_answer(self) -> bool:
        return any(map(is_answer, self.messages))


def is_answer(message: dict) -> bool:
    """Tell whether a message is trained, and a question's answer."""
    return message["role"] == "assistant" and message.get("trained", True)


def stop(problem: UserError) -> None:
    """Raise it: the first problem ends the reading."""
    raise problem


def read_conversations(
    source: Source,
    on_problem: Callable[[UserError], None] = stop,
    is_chosen: Callable[[], bool] = lambda: True,
    found: tuple[Sequence[str], str | None] | None = None,
) -> Iterator[Conversation]:
    """Read every conversation of a source, one at a time.

    on_problem: takes a UserError naming file, record and key; where it returns, the next record is read.
    is_chosen: is asked of each record in turn; the others are not looked at. found: what `find_files` gave.
    """
    try:
        files, folder = found or find_files(source)
    except UserError as problem:
        return on_problem(problem)
    roots, bounds = media_roots(source, folder)
    reading = source.reading
    for file in files:
        find_file = Locator(roots or (Path(file).parent,), downloads=source.downloads)
        for record in read_records(file, source.downloads, on_problem, source.columns, is_chosen):
            # A shard's own members need no folder; a data file's media lie beside it unless a root is given.
            find = find_file
            if record.members is not None:
                find = Locator(roots, record.members, source.downloads, record.own)
            try:
                with about_record(record.name):
                    conversation = parse_record(record.content, record.name, find, reading, record.unread)
                    if bounds:
                        bounds.check(conversation.media, record.name)
            except UserError as problem:
                on_problem(problem)
            else:
                yield conversation


def media_roots(source: Source, folder: str | None) -> tuple[tuple[Path, ...], Bounds | None]:
    """Return the folders of a source's media, and those that they may not leave. folder: see `find_files`."""
    roots = tuple(Path(folder or "", root) for root in source.media_roots)
    return roots, None if source.outside_media_root else Bounds([folder] if folder else roots)


def parse_record(
    record: dict, name: str, find: Locator, reading: Reading = AS_THEY_ARE, unread: Iterable[str] = ()
) -> Conversation:
    """Read one record of any form. Raises UserError naming the record. unread: keys of it that were not read."""
    record = renamed(record, name, reading.columns)
    turns, is_question = turns_of(record, name, reading, unread)
    first = 0 if record.get("system") else 1  # the number of the first message in errors
    messages = []
    for number, turn in enumerate(turns, start=first):
        role, content = role_and_content(turn, where := f"{name}, message {number}", reading.tags)
        message = {"role": role, "content": parts_of(content, where)}
        messages.append(message if is_trained(turn, role, where) else {**message, "trained": False})
    listed = listed_media(record, name)
    if is_question and "video_id" in record and not listed["video"]:
        listed["video"] = [find.clip_named(record["video_id"], name)]
    listed = _with_own(listed, messages, find, is_question)
    media = place_media(messages, listed, listed_span(record, listed, name), find, name, first)
    num_letters = _counted(messages, name)
    in_turn = _in_turn(messages, name, reading.strict_turns)
    if len(in_turn) < len(messages):  # what the user says at the end may have shown some
        media = media[: num_media(in_turn)]
    return Conversation(in_turn, tuple(media), name, record, num_letters)


def _with_own(listed: Listed, messages: list[dict], find: Locator, is_question: bool) -> Listed:
    """Give a record of a shard that says where its media stand, and not which they are, those of its sample.

    A question without marks that lists nothing is about all of them.
    """
    if not find.own_members:
        return listed
    marks = num_marks(messages)
    is_bare = is_question and not any(listed.values()) and not any(marks.values())
    return {kind: files or (find.own(kind) if marks[kind] or is_bare else []) for kind, files in listed.items()}


def with_system_prompt(messages: list[dict], system_prompt: str | None) -> list[dict]:
    """Put a system text before `messages`, unless they bring their own."""
    if not system_prompt or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}, *messages]


def _counted(messages: list[dict], name: str) -> int:
    """Count the letters of all texts. Raises UserError for those that would take all memory when tokenised."""
    turns, letters = len(messages), 0
    for message in messages:
        for part in message["content"]:
            if part["type"] == "text":
                letters += len(part["text"])
    if letters > MAX_TEXT or turns > MAX_TURNS or letters * turns > MAX_WORK:
        raise UserError(f"{name}: {letters:,} letters in {turns:,} messages are more than a conversation may have "
                        f"({MAX_TEXT:,}, in fewer turns where it is long); split it")  # fmt: skip
    return letters


def _in_turn(messages: list[dict], name: str, is_strict: bool) -> list[dict]:
    """Return messages in which user and assistant take turns, and the assistant has the last word.

    Several turns of one side are joined, and what the user says at the end is left out. is_strict: raise UserError
    instead.
    """
    roles = _roles(messages)
    if is_strict:
        _check_order(roles, name)
    if roles == ["user", "assistant"] * (len(roles) // 2):
        return messages  # as nearly all are
    joined: list[dict] = []
    for number, message in enumerate(messages):
        if joined and joined[-1]["role"] == message["role"]:
            if is_answer(joined[-1]) != is_answer(message):
                raise UserError(f"{name}: of messages {number} and {number + 1}, both the assistant's, one is trained "
                                "and the other is not; put a user's turn between them")  # fmt: skip
            joined[-1] = {**message, "content": join_parts(joined[-1]["content"], message["content"])}
        elif joined and message["role"] == "system":
            raise UserError(
                f"{name}: message {number + 1} is a system text; it must be the first (roles: {_shown(roles)})"
            )
        else:
            joined.append(message)
    return joined[:-1] if joined and joined[-1]["role"] == "user" else joined


def _roles(messages: list[dict]) -> list[str]:
    return [message["role"] for message in messages]


def _check_order(roles: list[str], name: str) -> None:
    turns = roles[1:] if roles[0] == "system" else roles
    for number, role in enumerate(turns):
        if role != ("user", "assistant")[number % 2]:
            raise UserError(f"{name}: roles are {_shown(roles)}; with data.turns: strict, after an optional system "
                            "text, user and assistant must take turns, user first")  # fmt: skip
    if not turns or len(turns) % 2:
        raise UserError(f"{name}: ends with the user's words and has no answer to train on")


def _shown(roles: list[str]) -> str:
    return ", ".join(roles[:12]) + (", ..." if len(roles) > 12 else "")
