"""Conversations about pictures and clips, read from LLaVA records or typed chat messages, one form for both.

LLaVA:    {"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\\nWhat is it?"}, ...]}
Messages: {"messages": [{"role": "user", "content": [{"type": "video", "path": "a.mp4"},
                                                    {"type": "text", "text": "What is it?"}]}, ...]}
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.video_llava import PLACEHOLDERS

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
NOUNS = {"image": "picture", "video": "clip"}
# The keys under which a typed part may name its file, besides its own type.
PATH_KEYS = ("path", "file")


@dataclass(frozen=True, slots=True)
class Media:
    kind: str  # "image" | "video"
    path: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """`messages` are [{"role", "content": [{"type": "text", "text"} | {"type": "image"} | {"type": "video"}]}];
    `media` are their pictures and clips in order of appearance; `name` says where it came from."""

    messages: list[dict]
    media: tuple[Media, ...]
    name: str
    record: dict


def read_conversations(path: str | Path, media_root: str | Path | None = None) -> Iterator[Conversation]:
    """Every conversation of a .json (a list) or .jsonl file; media paths are relative to `media_root`
    (default: the file's folder). Raises UserError naming file, row and key."""
    root = Path(path).parent if media_root is None else Path(media_root)
    for row, record in enumerate(read_records(path), start=1):
        yield parse_record(record, root, f"{path} row {row}")


def read_records(path: str | Path) -> Iterator[dict]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            is_list = _first_character(file) == "["
            if is_list:
                yield from json.load(file)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except json.JSONDecodeError as problem:
                        raise UserError(f"{path} line {number}: not JSON: {problem}") from problem
    except json.JSONDecodeError as problem:
        raise UserError(f"{path}: not JSON: {problem}") from problem
    except UnicodeDecodeError as problem:
        raise UserError(f"{path}: not a text file in UTF-8 (byte {problem.start})") from problem
    except OSError as problem:
        raise UserError(f"{path}: cannot read the data file: {problem.strerror}") from problem


def _first_character(file) -> str:
    while (character := file.read(1)).isspace():
        pass
    file.seek(0)
    return character


def parse_record(record: dict, media_root: Path, name: str) -> Conversation:
    """One record of either format. Raises UserError naming the row."""
    if not isinstance(record, dict):
        raise UserError(f"{name}: expected an object, got {type(record).__name__}")
    turns = record.get("conversations", record.get("messages"))
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{name}: needs 'conversations' (from/value) or 'messages' (role/content), a non-empty list")
    files = {kind: iter(_listed(record, kind, name)) for kind in PLACEHOLDERS}
    messages, media = [], []
    for number, turn in enumerate(turns, start=1):
        where = f"{name}, message {number}"
        role, parts = _role_and_parts(turn, where)
        for part in parts:
            if part["type"] == "text":
                continue
            kind, file = part["type"], part.pop("file", None)
            if file is None and (file := next(files[kind], None)) is None:
                raise UserError(f"{where}: a {PLACEHOLDERS[kind]} has no {NOUNS[kind]}; {_counts(record, turns)}")
            media.append(Media(kind, os.path.join(media_root, file)))
        messages.append({"role": role, "content": parts})
    for kind, rest in files.items():
        if (unused := next(rest, None)) is not None:
            raise UserError(
                f"{name}: {NOUNS[kind]} {unused!r} has no {PLACEHOLDERS[kind]} in the text; {_counts(record, turns)}"
            )
    _check_order(messages, name)
    return Conversation(messages, tuple(media), name, record)


def _listed(record: dict, kind: str, name: str) -> list[str]:
    """The record's own files of one kind: "video": "a.mp4" or ["a.mp4", ...], also under the plural."""
    value = record.get(kind, record.get(kind + "s"))
    value = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(file, str) and file for file in value):
        raise UserError(f"{name}, {kind}: expected a path or a list of paths, got {value!r}")
    return value


def _counts(record: dict, turns: list) -> str:
    text = json.dumps(turns)
    return ", ".join(
        f"{text.count(placeholder)} {placeholder} in the text and {len(_listed(record, kind, ''))} in {kind!r}"
        for kind, placeholder in PLACEHOLDERS.items()
    )


def _role_and_parts(turn: dict, where: str) -> tuple[str, list[dict]]:
    if not isinstance(turn, dict):
        raise UserError(f"{where}: expected an object, got {type(turn).__name__}")
    role = turn.get("from", turn.get("role"))
    if not isinstance(role, str) or role not in ROLES:
        raise UserError(f"{where}: role {role!r} is none of {', '.join(ROLES)}")
    content = turn.get("value", turn.get("content"))
    if isinstance(content, str):
        return ROLES[role], split_placeholders(content)
    if not isinstance(content, list):
        raise UserError(f"{where}: expected a text or a list of parts, got {content!r}")
    return ROLES[role], [_typed_part(part, where) for part in content]


def split_placeholders(text: str) -> list[dict]:
    """A text with <image> and <video> as typed parts; blanks at its ends and the line end after an opening
    placeholder go, because the chat template sets them."""
    parts: list[dict] = []
    for piece in re.split(f"({'|'.join(PLACEHOLDERS.values())})", text.strip()):
        if piece in PLACEHOLDERS.values():
            parts.append({"type": piece.strip("<>")})
        elif opening := piece if any(part["type"] == "text" for part in parts) else piece.lstrip():
            parts.append({"type": "text", "text": opening})
    return parts


def with_system_prompt(messages: list[dict], system_prompt: str | None) -> list[dict]:
    """`messages` behind a system text, unless they bring their own."""
    if not system_prompt or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}, *messages]


def _typed_part(part: dict, where: str) -> dict:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind not in PLACEHOLDERS:
        raise UserError(f"{where}: part {part!r} is none of text, image, video")
    file = next((part[key] for key in (kind, *PATH_KEYS) if part.get(key)), None)
    if file is not None and not isinstance(file, str):
        raise UserError(f"{where}: the {NOUNS[kind]}'s path must be a text, got {file!r}")
    return {"type": kind, "file": file}


def _check_order(messages: list[dict], name: str) -> None:
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    for number, role in enumerate(turns):
        if role != ("user", "assistant")[number % 2]:
            raise UserError(f"{name}: roles are {', '.join(roles)}; after an optional system text, user and "
                            "assistant must take turns, user first")  # fmt: skip
    if len(turns) % 2:
        raise UserError(f"{name}: ends with the user's words and has no answer to train on")
