"""Tokens with a meaning of their own, which may not stand in the words of a record."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

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
