"""Conversations about pictures and clips, read from LLaVA records or typed chat messages, one form for both.

LLaVA:    {"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat is it?"}, ...]}
Messages: {"messages": [{"role": "user", "content": [{"type": "video", "path": "a.mp4"},
                                                    {"type": "text", "text": "What is it?"}]}, ...]}
What may stand there besides a path, `Locator` says. "start" and "end", seconds from the first frame, in a LLaVA record
of one clip or in a video's part, take a part of it.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.media.locate import NOUNS, PLACE_KEYS, Locator, shown
from data.media.reference import Media
from data.sources.bounds import Bounds
from data.sources.guard import MAX_TEXT, MAX_TURNS, MAX_WORK, about_record
from data.sources.source import Source, find_files, read_records
from data.video_llava import PLACEHOLDERS

LONGEST_SECONDS = sys.float_info.max
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """`messages` are [{"role", "content": [{"type": "text", "text"} | {"type": "image"} | {"type": "video"}]}];
    `media` are their pictures and clips in order of appearance; `name` says where it came from."""

    messages: list[dict]
    media: tuple[Media, ...]
    name: str
    record: dict


def stop(problem: UserError) -> None:
    """Raise it: the first problem ends the reading."""
    raise problem


def read_conversations(source: Source, on_problem: Callable[[UserError], None] = stop) -> Iterator[Conversation]:
    """Read every conversation of a source, one at a time.

    on_problem: takes a UserError naming file, record and key; where it returns, the next record is read.
    """
    try:
        files, folder = find_files(source)
    except UserError as problem:
        return on_problem(problem)
    roots = tuple(Path(folder or "", root) for root in source.media_roots)
    bounds = None if source.outside_media_root else Bounds([folder] if folder else roots)
    for file in files:
        for record in read_records(file, source.downloads, on_problem):
            # A shard's own members need no folder; a data file's media lie beside it unless a root is given.
            near = () if record.members is not None else (Path(file).parent,)
            find = Locator(roots or near, record.members or {}, source.downloads)
            try:
                with about_record(record.name):
                    conversation = parse_record(record.content, record.name, find)
                    if bounds:
                        bounds.check(conversation.media, record.name)
            except UserError as problem:
                on_problem(problem)
            else:
                yield conversation


def parse_record(record: dict, name: str, find: Locator) -> Conversation:
    """Read one record of either format. Raises UserError naming the record."""
    if not isinstance(record, dict):
        raise UserError(f"{name}: expected an object, got {type(record).__name__}")
    record = _without_nulls(record)
    turns = record.get("conversations", record.get("messages"))
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{name}: needs 'conversations' (from/value) or 'messages' (role/content), a non-empty list")
    files, listed_span = {kind: iter(_listed(record, kind, name)) for kind in PLACEHOLDERS}, _listed_span(record, name)
    messages, media = [], []
    for number, turn in enumerate(turns, start=1):
        where = f"{name}, message {number}"
        role, parts = _role_and_parts(turn, where)
        for part in parts:
            if part["type"] == "text":
                continue
            kind, value, span = part["type"], part.pop("value", None), part.pop("span", {})
            if value is None:
                if (value := next(files[kind], None)) is None:
                    raise UserError(f"{where}: a {PLACEHOLDERS[kind]} has no {NOUNS[kind]}; {_counts(record, turns)}")
                span = listed_span if kind == "video" else {}
            media.append(find(kind, value, where, span))
        messages.append({"role": role, "content": parts})
    for kind, rest in files.items():
        if (unused := next(rest, None)) is not None:
            raise UserError(
                f"{name}: {NOUNS[kind]} {shown(unused)} has no {PLACEHOLDERS[kind]} in the text; "
                f"{_counts(record, turns)}"
            )
    _check_order(messages, name)
    _check_length(messages, name)
    return Conversation(messages, tuple(media), name, record)


def _listed(record: dict, kind: str, name: str) -> list:
    """List the record's own media of one kind, as `Locator` takes them: one or a list, also under the plural."""
    value = record.get(kind, record.get(kind + "s"))
    value = [] if value is None else [value] if isinstance(value, str | dict) else value
    if not isinstance(value, list) or not all(isinstance(file, str | dict | list) and file for file in value):
        raise UserError(f"{name}, {kind}: expected a path or a list of paths, got {shown(value)}")
    return value


def _listed_span(record: dict, name: str) -> dict[str, float]:
    """Read the seconds of the one clip that a record lists."""
    span, num_clips = _span(record, name), len(_listed(record, "video", name))
    if span and num_clips != 1:
        raise UserError(f"{name}: 'start' and 'end' are those of one clip in 'video', which names {num_clips}; "
                        "write them into typed parts")  # fmt: skip
    return span


def _span(holder: dict, where: str) -> dict[str, float]:
    """Read the seconds `start` and `end` of a record or a typed part, as far as it has them."""
    span = {key: holder[key] for key in ("start", "end") if holder.get(key) is not None}
    for key, value in span.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST_SECONDS:
            raise UserError(f"{where}, {key}: expected seconds from the clip's first frame, got {shown(value)}")
    if len(span) == 2 and span["end"] <= span["start"]:
        raise UserError(f"{where}, end: {span['end']!r} is not behind start: {span['start']!r}")
    return {key: float(value) for key, value in span.items()}


def _counts(record: dict, turns: list) -> str:
    text = json.dumps(turns)
    return ", ".join(
        f"{text.count(placeholder)} {placeholder} in the text and {len(_listed(record, kind, ''))} in {kind!r}"
        for kind, placeholder in PLACEHOLDERS.items()
    )


def _role_and_parts(turn: dict, where: str) -> tuple[str, list[dict]]:
    if not isinstance(turn, dict):
        raise UserError(f"{where}: expected an object, got {type(turn).__name__}")
    turn = _without_nulls(turn)
    role = turn.get("from", turn.get("role"))
    if not isinstance(role, str) or role not in ROLES:
        raise UserError(f"{where}: role {shown(role)} is none of {', '.join(ROLES)}")
    content = turn.get("value", turn.get("content"))
    if isinstance(content, str):
        parts = split_placeholders(content)
    elif isinstance(content, list):
        parts = [_typed_part(part, where) for part in content]
    else:
        raise UserError(f"{where}: expected a text or a list of parts, got {shown(content)}")
    for part in parts:
        _check_text(part.get("text", ""), where)
    return ROLES[role], parts


def _without_nulls(holder: dict) -> dict:
    """Drop keys that are null: tables, and what is made of them, have every key in every record."""
    return {key: value for key, value in holder.items() if value is not None}


def _check_text(text: str, where: str) -> None:
    """Raise UserError for half of a surrogate pair, such as of an emoji that was cut: no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise UserError(
            f"{where}: the text holds half of a character ({half!a} at letter {error.start + 1}); mend or drop it"
        ) from None


def split_placeholders(text: str) -> list[dict]:
    """Split a text with <image> and <video> into typed parts.

    Blanks at its ends and the line end after an opening placeholder go, because the chat template sets them.
    """
    parts: list[dict] = []
    for piece in re.split(f"({'|'.join(PLACEHOLDERS.values())})", text.strip()):
        if piece in PLACEHOLDERS.values():
            parts.append({"type": piece.strip("<>")})
        elif opening := piece if any(part["type"] == "text" for part in parts) else piece.lstrip():
            parts.append({"type": "text", "text": opening})
    return parts


def with_system_prompt(messages: list[dict], system_prompt: str | None) -> list[dict]:
    """Put a system text before `messages`, unless they bring their own."""
    if not system_prompt or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}, *messages]


def _typed_part(part: dict, where: str) -> dict:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("image_url", "video_url"):  # OpenAI's names
        part = {**part, "type": (kind := kind.removesuffix("_url")), kind: part.get(part["type"])}
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if not isinstance(kind, str) or kind not in PLACEHOLDERS:
        raise UserError(f"{where}: part {shown(part)} is none of text, image, video")
    value = part.get(kind) or None
    if value is None or isinstance(value, str):
        keys = {key: part[key] for key in PLACE_KEYS if part.get(key)}
        value = {**({"path": value} if value else {}), **keys, "fps": part.get("fps")} if value or keys else None
    span = _span(part, where)
    if span and (kind, value is None) != ("video", False):
        raise UserError(f"{where}: 'start' and 'end' belong to a part that names a clip, not to {shown(part)}")
    return {"type": kind, "value": value, "span": span}


def num_letters(messages: list[dict]) -> int:
    """Count the letters of all texts."""
    return sum(len(part.get("text", "")) for message in messages for part in message["content"])


def _check_length(messages: list[dict], name: str) -> None:
    """Raise UserError for a conversation that would take all memory when it is tokenised."""
    letters, turns = num_letters(messages), len(messages)
    if letters > MAX_TEXT or turns > MAX_TURNS or letters * turns > MAX_WORK:
        raise UserError(f"{name}: {letters:,} letters in {turns:,} messages are more than a conversation may have "
                        f"({MAX_TEXT:,}, in fewer turns where it is long); split it")  # fmt: skip


def _check_order(messages: list[dict], name: str) -> None:
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    for number, role in enumerate(turns):
        if role != ("user", "assistant")[number % 2]:
            raise UserError(f"{name}: roles are {', '.join(roles)}; after an optional system text, user and "
                            "assistant must take turns, user first")  # fmt: skip
    if len(turns) % 2:
        raise UserError(f"{name}: ends with the user's words and has no answer to train on")
