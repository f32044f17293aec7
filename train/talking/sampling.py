"""The options by which the words of an answer are chosen, and what ends it."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass

from transformers import GenerationConfig

from data.errors import SettingError

MAX_TEMPERATURE = 2.0  # OpenAI's own limit; beyond it every word is as likely as any other
MAX_SEED = 2**63
MAX_STOPS = 4  # as OpenAI's interface has it
MAX_STOP_LETTERS = 256


@dataclass(frozen=True)
class Sampling:
    """temperature: 0 takes the most likely token; else it is drawn, and `top_p` and `top_k` (0: all) bound from what.

    seed: what the random numbers begin with; None draws others each time. max_tokens: of an answer. stop: texts, the
    first of which ends the answer and is no part of it. Raises SettingError for what no answer can be chosen by.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        _check_number("temperature", self.temperature, 0, MAX_TEMPERATURE)
        _check_number("top_p", self.top_p, 0, 1)
        if self.top_p == 0:
            raise SettingError("top_p", "must be more than 0: nothing could be said; for the likeliest word, set "
                               "temperature to 0")  # fmt: skip
        _check_whole("top_k", self.top_k, 0)
        _check_whole("max_tokens", self.max_tokens, 1)
        if self.seed is not None:
            _check_whole("seed", self.seed, -MAX_SEED, MAX_SEED - 1)
        if len(self.stop) > MAX_STOPS or not all(0 < len(text) <= MAX_STOP_LETTERS for text in self.stop):
            raise SettingError("stop", f"must be at most {MAX_STOPS} texts of 1 to {MAX_STOP_LETTERS} letters")

    def config(self, ends: Collection[int] = (), padding: int | None = None) -> GenerationConfig:
        """Return this as transformers has it. ends: the tokens that end an answer."""
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k} if self.temperature else {}
        return GenerationConfig(do_sample=bool(drawn), eos_token_id=sorted(ends) or None, pad_token_id=padding, **drawn)

    def begin(self) -> int:
        """Return the seed, a new one where none is set."""
        return secrets.randbits(63) if self.seed is None else self.seed


def _check_number(name: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise SettingError(name, f"must be a number from {least:g} to {most:g}, got {value!r:.80}")


def _check_whole(name: str, value: int, least: int, most: int | None = None) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise SettingError(name, f"must be a whole number {bounds}, got {value!r:.80}")
