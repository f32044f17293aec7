"""The text of an answer, given out while its tokens come: what was given out is never taken back."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")  # a byte of a character that the vocabulary lacks
BROKEN = "\ufffd"  # what decoders make of half a character


class Words:
    """All pieces together are what `tokenizer.decode` makes of all tokens, without blanks at both ends and without what
    stands behind the first of `stop`.

    What may still change waits: bytes, which are a character only when the last of them has come, and all of a run of
    them is broken where one is; blanks at the end; the beginning of what would stop the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()):
        self.tokenizer, self.stop = tokenizer, stop
        self.given, self.is_stopped = "", False
        self._special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._ids: list[int] = []
        self._num_certain = 0  # tokens before the last run of bytes

    def add(self, token: int) -> str:
        """Take the next token and return the piece that is certain now, often a word, "" while nothing is."""
        if token in self._special:  # decoding skips it, even amid the bytes of a character
            return ""
        self._ids.append(token)
        if BYTE_PIECE.fullmatch(str(self.tokenizer.convert_ids_to_tokens(token))):
            return ""
        self._num_certain = len(self._ids)
        return self._give(self._decoded(self._num_certain).rstrip(BROKEN), is_end=False)

    def end(self) -> str:
        """Return what is left."""
        return self._give(self._decoded(len(self._ids)), is_end=True)

    def _decoded(self, number: int) -> str:
        return str(self.tokenizer.decode(self._ids[:number], skip_special_tokens=True)).lstrip()

    def _give(self, text: str, is_end: bool) -> str:
        if self.is_stopped:
            return ""
        found = [at for at in (text.find(each) for each in self.stop) if at >= 0]
        if found:
            text, self.is_stopped = text[: min(found)], True
        elif not is_end:
            text = text[: len(text) - max((_overlap(text, each) for each in self.stop), default=0)]
        text = text.rstrip()
        if len(text) <= len(self.given) or not text.startswith(self.given):
            return ""
        piece, self.given = text[len(self.given) :], text
        return piece


def _overlap(text: str, stop: str) -> int:
    """Return how many letters at the end of a text may be the first of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((number for number in range(longest, 0, -1) if text.endswith(stop[:number])), 0)
