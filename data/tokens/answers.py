"""The letters of a conversation's answers -> their tokens."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from tokenizers import Encoding

from data.errors import UserError

Range = tuple[int, int]
"""A half-open range, of letters or tokens."""


def tokens_of(answers: Sequence[Range] | None, text: Encoding, name: str) -> list[Range]:
    """Return the tokens of each answer, which must begin and end between two of them.

    answers: their letters; None: those of a part of the text are not those of the whole. Raises UserError with the
    record's name.
    """
    if answers is None:
        raise UserError(
            f"{name}: the chat template rewrites earlier turns when a turn is added, so training and inference "
            "would see different prompts; give the processor a template that only appends"
        )
    found = []
    for answer in answers:
        if (tokens := _plain_range(answer, text)) is None:
            return list(_searched(answers, text.offsets, name))
        found.append(tokens)
    return found


def _plain_range(answer: Range, text: Encoding) -> Range | None:
    """Return the tokens of an answer where one begins with it and one ends with it; None where that is not so plain.

    A list of the letters of all tokens, which is spared here, takes as long to make as a fifth of the tokenising.
    """
    start, end = answer
    first, last = text.char_to_token(start), text.char_to_token(end - 1)
    if first is None or last is None or not 0 < first <= last:
        return None
    before, opening = text.token_to_chars(first - 1), text.token_to_chars(first)
    closing, behind = text.token_to_chars(last), text.token_to_chars(last + 1)
    if before is None or opening is None or closing is None or not before[0] < before[1] <= start:
        return None
    is_plain = opening[0] == start and closing[1] == end and (behind is None or behind[0] >= end)
    return (first, last + 1) if is_plain else None


def _searched(answers: Sequence[Range], offsets: Sequence[Range], name: str) -> Iterator[Range]:
    """Find the tokens of answers among the letters of all tokens, which may come in any order."""
    firsts, lasts = np.array(offsets).T
    for start, end in answers:
        inside = np.flatnonzero((start <= firsts) & (firsts < end))  # tokens that begin within the answer
        if any(((firsts < edge) & (edge < lasts)).any() for edge in (start, end)):
            raise UserError(
                f"{name}: the tokenizer joins the end of the prompt and the answer in one token, so the prompt at "
                "inference would differ; the chat template's generation prompt must end where a token ends"
            )
        yield int(inside[0]), int(inside[-1]) + 1


def without(placeholders: Collection[int], ids: Sequence[int], span: Range) -> Iterator[Range]:
    """Yield the parts of a half-open range of `ids` that lie between placeholders.

    An answer may show media, too: its words are trained, its visual tokens are input and can be no label.
    """
    start, end = span
    for place in range(start, end):
        if ids[place] in placeholders:
            if start < place:
                yield start, place
            start = place + 1
    if start < end:
        yield start, end
