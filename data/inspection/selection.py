"""The longest conversations of some sources, those that are cut, and those that are left out."""

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from sys import maxsize
from typing import Literal

from transformers import PreTrainedTokenizerBase

from data.sources.conversation import Conversation, read_conversations
from data.sources.source import Source
from data.tokens.encoding import BATCH, Sample, encode, encode_all, num_tokens
from data.video_llava import VisualTokens

Choice = Literal["longest", "cut", "left-out"]
MAX_SHOWN = 2000  # letters of a record of which nothing can be trained


@dataclass(frozen=True)
class Selected:
    """A conversation as it is written, and what is trained of it.

    sample: None without an answer; num_kept: tokens up to which it is trained, visual ones included; record: its text
    where there is no sample.
    """

    name: str
    sample: Sample | None
    num_tokens: int
    num_kept: int
    num_turns_cut: int = 0
    record: str = ""


def select(
    choice: Choice,
    sources: Iterable[Source],
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None,
    number: int,
) -> tuple[list[Selected], int]:
    """Return the first `number` of the chosen conversations, the longest ones first, and how many there are."""
    found: list[tuple[int, int, Selected]] = []
    count = 0
    for conversation, sample in _encoded(sources, tokenizer, visual_tokens, system_prompt):
        length = num_tokens(sample, visual_tokens)
        kept = sample
        if length > max_length:
            kept = encode(conversation, tokenizer, visual_tokens, max_length, system_prompt)
        is_left_out = kept is None or not kept.trained
        is_cut = kept is not None and kept.num_turns_dropped > 0
        if not {"longest": not is_left_out, "cut": is_cut, "left-out": is_left_out}[choice]:
            continue
        count += 1
        if choice == "longest" and len(found) == number and length <= found[0][0]:
            continue
        # Of equal ones the first stays: the heap gives up its smallest.
        entry = length, -count, _selected(conversation, sample, kept, visual_tokens)
        (heapq.heappush if len(found) < number else heapq.heappushpop)(found, entry)
    return [entry for *_, entry in sorted(found, key=lambda entry: entry[:2], reverse=True)], count


def _encoded(
    sources: Iterable[Source],
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    system_prompt: str | None,
) -> Iterator[tuple[Conversation, Sample]]:
    """Yield every conversation with its sample, whatever its length."""
    for source in sources:
        conversations = read_conversations(source)
        while batch := list(islice(conversations, BATCH)):
            samples = encode_all(batch, tokenizer, visual_tokens, maxsize, system_prompt)
            for conversation, (_, sample) in zip(batch, samples, strict=True):
                assert sample is not None, "no conversation is longer than maxsize"
                yield conversation, sample


def _selected(conversation: Conversation, sample: Sample, kept: Sample | None, visual_tokens: VisualTokens) -> Selected:
    if not sample.trained:
        text = json.dumps(conversation.record, ensure_ascii=False, indent=1, default=str)
        return Selected(conversation.name, None, 0, 0, record=text[:MAX_SHOWN] + "..." * (len(text) > MAX_SHOWN))
    length = num_tokens(sample, visual_tokens)
    if kept is None:
        return Selected(conversation.name, sample, length, 0)
    return Selected(conversation.name, sample, length, num_tokens(kept, visual_tokens), kept.num_turns_dropped)
