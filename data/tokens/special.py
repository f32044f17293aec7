"""Tokens with a meaning of their own, which may not stand in the words of a record."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from data.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return all texts that become a special token, those too that a tokenizer has no name for, such as LLaMA 3's
    <|start_header_id|>: in a record's words they would begin a turn."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return {*tokenizer.all_special_tokens, *added}


def special_finder(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], re.Match | None]:
    """Return a function that finds the first special token in a text."""
    return re.compile("|".join(map(re.escape, special_tokens(tokenizer)))).search


def texts_of(dialogues: list[list[dict]]) -> list[str]:
    return [
        part["text"]
        for messages in dialogues
        for message in messages
        for part in message["content"]
        if part["type"] == "text"
    ]


def refuse_special_tokens(messages: list[dict], find_special: Callable[[str], re.Match | None], name: str) -> None:
    for message in messages:
        for part in message["content"]:
            if found := find_special(part.get("text", "")):
                raise UserError(f"{name}: the text holds the special token {found[0]!r}; take it out")
