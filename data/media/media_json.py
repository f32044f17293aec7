"""A reference to a picture or clip as JSON, and back."""

import json
from dataclasses import fields
from functools import cache
from typing import Any, cast

from data.media import reference
from data.media.reference import Kind, Media

CLASS = ""  # the key of a dataclass's name, which is one of data.media.reference


def to_json(item: Media) -> bytes:
    """Write a reference as JSON; equal media give equal bytes."""
    return json.dumps(_to_plain(item)).encode()


def from_json(text: str | bytes) -> Media:
    """Read what `to_json` wrote."""
    return cast(Media, _from_plain(json.loads(text)))


def named_span(text: str | bytes) -> tuple[Kind, str, float | None, float | None]:
    """Return the kind, path, start and end of what `to_json` wrote, without making the rest of it."""
    plain = json.loads(text)
    return plain["kind"], plain["path"], plain.get("start"), plain.get("end")


def _to_plain(value: Any) -> Any:
    """Turn media, and the dataclasses and tuples in them, into plain values without the fields that are at default."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    plain = {CLASS: type(value).__name__}
    for name, usual in _fields(type(value)):
        item = getattr(value, name)
        if item is not usual and item != usual:
            plain[name] = _to_plain(item)
    return plain


@cache
def _fields(kind: type) -> tuple[tuple[str, Any], ...]:
    """Return the names and defaults of a dataclass: to ask it again for each of a million media would take a while."""
    return tuple((field.name, field.default) for field in fields(kind))


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_plain(item) for item in value)
    if isinstance(value, dict):
        return vars(reference)[value.pop(CLASS)](**{name: _from_plain(item) for name, item in value.items()})
    return value
