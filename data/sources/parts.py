"""The texts and typed parts of turns, and the places in them at which pictures and clips stand."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from data.errors import UserError
from data.media.locate import NOUNS, PLACE_KEYS, Locator, shown
from data.media.reference import Media
from data.video_llava import PLACEHOLDERS

LONGEST_SECONDS = sys.float_info.max
# <|image|>, <image_1>, <|video_pad|>, <Video>: marks of other trainers, which would be trained as words.
FOREIGN_MARK = re.compile(
    r"</?\|?(?:image|video|audio|img|vid|vision|media)[ _-]?(?:pad|start|end|here|token|placeholder|\d+)?\|?>",
    re.IGNORECASE,
)
PLACEHOLDER = re.compile(f"({'|'.join(PLACEHOLDERS.values())})")
MEDIA_KEYS = {kind: (kind, kind + "s") for kind in PLACEHOLDERS}  # of records
Listed = dict[str, list[Any]]  # kind -> the pictures or clips that a record lists, as `Locator` takes them


def parts_of(content: Any, where: str) -> list[dict]:
    """Split what is said in a turn into texts and media; these have a `value` where it names them."""
    if isinstance(content, str):
        parts = split_placeholders(content)
    elif isinstance(content, list):
        parts = [_typed_part(part, where) for part in content]
    else:
        raise UserError(f"{where}: expected a text or a list of parts, got {shown(content)}")
    for part in parts:
        check_text(part.get("text", ""), where)
    return parts


def split_placeholders(text: str) -> list[dict]:
    """Split a text with <image> and <video> into typed parts.

    Blanks at its ends and the line end after an opening placeholder go, because the chat template sets them.
    """
    text = text.strip()
    if "<" not in text:
        return [{"type": "text", "text": text}] if text else []
    parts: list[dict] = []
    has_words = False
    for piece in PLACEHOLDER.split(text):
        if piece in PLACEHOLDERS.values():
            parts.append({"type": piece.strip("<>")})
        elif opening := piece if has_words else piece.lstrip():
            parts.append({"type": "text", "text": opening})
            has_words = True
    return parts


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


def check_text(text: str, where: str) -> None:
    """Raise UserError for half of a surrogate pair, such as of an emoji that was cut: no tokenizer takes it."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise UserError(
            f"{where}: the text holds half of a character ({half!a} at letter {error.start + 1}); mend or drop it"
        ) from None


def listed_media(record: dict, name: str) -> Listed:
    """List the record's own media, which stand beside its turns: one or a list, also under the plural."""
    listed: Listed = {kind: [] for kind in PLACEHOLDERS}
    for kind, keys in MEDIA_KEYS.items():
        for key in keys:
            if key in record and (given := _listed(record[key], name, key)):
                if listed[kind] and listed[kind] != given:
                    raise UserError(f"{name}: has '{kind}' and '{kind}s', which differ; keep one of them")
                listed[kind] = given
    return listed


def _listed(value: Any, name: str, key: str) -> list:
    files = [value] if isinstance(value, str | dict) else value
    if not isinstance(files, list) or not all(map(_is_named, files)):
        raise UserError(f"{name}, {key}: expected a path or a list of paths, got {shown(files)}")
    return files


def _is_named(file: Any) -> bool:
    return isinstance(file, str | dict | list) and bool(file)


def listed_span(record: dict, listed: Listed, name: str) -> dict[str, float]:
    """Read the seconds of the one clip that a record lists."""
    span, num_clips = _span(record, name), len(listed["video"])
    if span and num_clips != 1:
        raise UserError(f"{name}: 'start' and 'end' are those of one clip in 'video', which names {num_clips}; "
                        "write them into typed parts")  # fmt: skip
    return span


def _span(holder: dict, where: str) -> dict[str, float]:
    """Read the seconds `start` and `end` of a record or a typed part, as far as it has them."""
    if "start" not in holder and "end" not in holder:
        return {}
    span = {key: holder[key] for key in ("start", "end") if holder.get(key) is not None}
    for key, value in span.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST_SECONDS:
            raise UserError(f"{where}, {key}: expected seconds from the clip's first frame, got {shown(value)}")
    if len(span) == 2 and span["end"] <= span["start"]:
        raise UserError(f"{where}, end: {span['end']!r} is not behind start: {span['start']!r}")
    return {key: float(value) for key, value in span.items()}


def num_marks(messages: Sequence[dict]) -> dict[str, int]:
    """Count, by kind, the places of media that the texts leave to what the record lists."""
    marks = dict.fromkeys(PLACEHOLDERS, 0)
    for _, part in _places(messages):
        if part.get("value") is None:
            marks[part["type"]] += 1
    return marks


def _places(messages: Sequence[dict]) -> list[tuple[int, dict]]:
    """Return the parts that are no texts, each with the place of its message."""
    return [
        (number, part)
        for number, message in enumerate(messages)
        for part in message["content"]
        if part["type"] != "text"
    ]


def place_media(
    messages: Sequence[dict], listed: Listed, span: dict[str, float], find: Locator, name: str, first: int
) -> list[Media]:
    """Find every picture and clip, in order of appearance, and leave in `messages` nothing but their places.

    Where no place is marked, the listed ones stand at the start of the user's first words; else there must be as many
    as marks. first: number of the first message, for errors.
    """
    places, has_listed = _places(messages), any(listed.values())
    if places or has_listed:
        _refuse_foreign_marks(messages, name, first)
    if has_listed and not places:
        _open_with(messages, listed, name)
        places = _places(messages)
    wanted = [part["type"] for _, part in places if part.get("value") is None]
    rest = {kind: iter(files) for kind, files in listed.items()}
    media = []
    for number, part in places:
        kind, where, own = part["type"], f"{name}, message {first + number}", part.pop("span", {})
        if (value := part.pop("value", None)) is None:
            if (value := next(rest[kind], None)) is None:
                raise UserError(f"{where}: a {PLACEHOLDERS[kind]} has no {NOUNS[kind]}; {_counts(wanted, listed)}")
            own = span if kind == "video" else {}
        media.append(find(kind, value, where, own))
    for kind, files in rest.items():
        if (unused := next(files, None)) is not None:
            what = f"{NOUNS[kind]} {shown(unused)} has no {PLACEHOLDERS[kind]} in the text"
            raise UserError(f"{name}: {what}; {_counts(wanted, listed)}")
    return media


def num_media(messages: Sequence[dict]) -> int:
    """Count the places of media."""
    return len(_places(messages))


def _counts(wanted: list[str], listed: Listed) -> str:
    return ", ".join(
        f"{wanted.count(kind)} {placeholder} in the text and {len(listed[kind])} in {kind!r}"
        for kind, placeholder in PLACEHOLDERS.items()
    )


def _open_with(messages: Sequence[dict], listed: Listed, name: str) -> None:
    """Mark the places of all listed media at the start of the user's first words, pictures first."""
    places = [{"type": kind} for kind in PLACEHOLDERS for _ in listed[kind]]
    asked = next((message for message in messages if message["role"] == "user"), None)
    if asked is None:
        raise UserError(f"{name}: no user speaks of its media; mark their places with <image> and <video>")
    asked["content"] = [*places, *asked["content"]]


def _refuse_foreign_marks(messages: Sequence[dict], name: str, first: int) -> None:
    for number, message in enumerate(messages, start=first):
        for part in message["content"]:
            if "<" in (text := part.get("text", "")) and (found := FOREIGN_MARK.search(text)):
                what = "stands in a part of type text" if found[0] in PLACEHOLDERS.values() else "is no mark of a place"
                raise UserError(
                    f"{name}, message {number}: the text has {found[0]!r}, which {what}; write <image> or <video> in "
                    "contents that are texts, or parts of these types"
                )


def join_parts(parts: list[dict], more: list[dict]) -> list[dict]:
    """Join the parts of two turns, on lines of their own, as one text that holds both would be split."""
    has_words = any(part["type"] == "text" for part in parts)
    if not has_words or not more:
        return [*parts, *more]
    joined, opens = [*parts, {"type": "text", "text": "\n"}], True
    for part in more:
        joined.append(part)
        opens = opens and part["type"] != "text"
        if opens and part is not more[-1]:
            joined.append({"type": "text", "text": "\n"})
    merged: list[dict] = []
    for part in joined:
        if merged and merged[-1]["type"] == part["type"] == "text":
            merged[-1] = {"type": "text", "text": merged[-1]["text"] + part["text"]}
        else:
            merged.append(part)
    return merged
