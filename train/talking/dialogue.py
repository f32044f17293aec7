"""A conversation so far: what was said and shown, and what the next question will show."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.media.reference import Kind, Media, media_at
from data.sources.conversation import with_system_prompt
from data.sources.parts import split_placeholders

TIME = r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)"  # 7.5, 1:07.5 or 1:01:07.5
SPAN = re.compile(r"(?P<path>.*\S)\s+(?P<start>[\d.:]*)-(?P<end>[\d.:]*)")


@dataclass
class Dialogue:
    """messages: user and assistant by turns; media: what they show, in order. pending: what the next question shows."""

    system_prompt: str | None = None
    messages: list[dict] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)
    pending: list[Media] = field(default_factory=list)

    def ask(self, text: str) -> tuple[list[dict], list[Media]]:
        """Return what the model is asked: all messages, the new one the last, and their media.

        Pending media stand at its start, unless it says <video> and <image> where they belong. Raises UserError where
        it names others.
        """
        parts = split_placeholders(text)
        named = [part["type"] for part in parts if part["type"] != "text"]
        given = [item.kind for item in self.pending]
        if named and named != given:
            raise UserError(f"the question names {', '.join(named)}, but it shows {', '.join(given) or 'nothing'}; "
                            "give a clip with /video and a picture with /image")  # fmt: skip
        if not named:
            parts = [*({"type": kind} for kind in given), *parts]
        messages = [*self.messages, {"role": "user", "content": parts}]
        return with_system_prompt(messages, self.system_prompt), [*self.media, *self.pending]

    def answered(self, messages: Sequence[dict], text: str) -> None:
        """Take a question, as `ask` returned it, and its answer into the conversation."""
        reply = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        self.messages = [*(each for each in messages if each["role"] != "system"), reply]
        self.media, self.pending = [*self.media, *self.pending], []

    def reset(self) -> None:
        """Begin anew, with the same system prompt."""
        self.messages, self.media, self.pending = [], [], []

    def record(self) -> dict:
        """Return the conversation as a record of a data file, media by their full paths."""
        media, messages = iter(self.media), []
        for message in with_system_prompt(self.messages, self.system_prompt):
            content = [part if part["type"] == "text" else _part_of(next(media)) for part in message["content"]]
            messages.append({"role": message["role"], "content": content})
        return {"messages": messages}


def _part_of(item: Media) -> dict[str, Any]:
    span = {"start": item.start, "end": item.end}
    return {
        "type": item.kind,
        "path": str(Path(item.path).absolute()),
        **{key: value for key, value in span.items() if value is not None},
    }


def media_named(kind: Kind, words: str) -> Media:
    """Read `F` or `F START-END`, seconds or minutes:seconds, either of them left out. Raises UserError."""
    words = words.strip()
    start = end = None
    if kind == "video" and not os.path.exists(os.path.expanduser(words)) and (found := SPAN.fullmatch(words)):
        words, start, end = found["path"], _seconds(found["start"]), _seconds(found["end"])
        if start is not None and end is not None and end <= start:
            raise UserError(f"the part of {words!r} ends at {end:g} s, which is not behind its start at {start:g} s")
    if len(words) > 1 and words[0] == words[-1] and words[0] in "'\"":
        words = words[1:-1]
    if not words:
        raise UserError(f"no file is named; write /{kind} FILE")
    item = media_at(kind, os.path.expanduser(words))
    return Media(kind, item.path, start, end, place=item.place)


def _seconds(text: str) -> float | None:
    """Return the seconds of 7.5, 1:07.5 or 1:01:07.5; None for an end that is left out."""
    if not text:
        return None
    if not (found := re.fullmatch(TIME, text)):
        raise UserError(f"{text!r} is no time in a clip; write seconds, 7.5, or minutes and seconds, 1:07.5")
    hours, minutes, seconds = found.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)
