"""Tokens that a vocabulary lacks: added so that each is one id, and everything else keeps its ids."""

from collections.abc import Iterator, Sequence

from transformers import AddedToken, PreTrainedTokenizerBase, VideoLlavaProcessor

from data.errors import SettingError
from data.video_llava import PLACEHOLDERS

SETTING = "add_tokens"
# Words of a prompt around which nothing may be cut otherwise than the model knows it.
PROMPT_WORDS = ("USER:", "ASSISTANT:")


def add_new_tokens(processor: VideoLlavaProcessor, tokens: Sequence[str]) -> list[int]:
    """Add tokens to a processor's tokenizer and return their ids, in order.

    They are ordinary tokens: answers show them. Raises SettingError with all that cannot be added.
    """
    tokenizer: PreTrainedTokenizerBase = processor.tokenizer
    if problems := list(_problems(tokenizer, tokens)):
        raise SettingError(SETTING, "; ".join(problems))
    before = {text: tokenizer(text).input_ids for text in _kept(tokenizer)}
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    assert isinstance(ids, list)
    for token, number in zip(tokens, ids, strict=True):
        for other in _specials(tokenizer):
            around = tokenizer(f"{other}{token}{other}", add_special_tokens=False).input_ids
            special = tokenizer.convert_tokens_to_ids(other)
            if around.count(number) != 1 or around.count(special) != 2:
                raise SettingError(SETTING, f"{token!r} beside {other!r} is not cut into these two; take another one")
    if changed := [text for text, known in before.items() if tokenizer(text).input_ids != known]:
        raise SettingError(SETTING, f"{changed[0]!r} would be cut otherwise; take other tokens")
    return ids


def _problems(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> Iterator[str]:
    vocabulary, specials = tokenizer.get_vocab(), _specials(tokenizer)
    for place, token in enumerate(tokens):
        if not token or any(letter.isspace() for letter in token):
            yield f"{token!r} is empty or has a blank in it"
        elif token in specials:
            yield f"{token!r} is a token with a meaning of its own"
        elif any(special in token for special in specials):
            yield f"{token!r} has a token with a meaning of its own in it"
        elif any(token in word for word in PROMPT_WORDS):
            yield f"{token!r} is part of every prompt"
        elif any(special.startswith(token[-size:]) for special in specials for size in range(1, len(token))):
            yield f"{token!r} ends as a token with a meaning of its own begins"
        elif token in vocabulary:
            yield f"{token!r} is in the vocabulary already (id {vocabulary[token]}); remove it"
        elif token in tokens[:place]:
            yield f"{token!r} is named twice"


def _specials(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return list(dict.fromkeys([*PLACEHOLDERS.values(), *tokenizer.all_special_tokens]))


def _kept(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return texts whose ids may not change."""
    return [*_specials(tokenizer), *PROMPT_WORDS, "USER: <video>\n ASSISTANT: </s>", "USER: <image>\n ASSISTANT:"]
