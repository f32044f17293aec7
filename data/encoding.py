"""Conversation -> token ids and which of them are trained, by tokenising the whole rendered text once.

Tokenising pieces and joining them is wrong for LLaMA's tokenizers, which put a blank in front of each piece. The
whole text gives the tokens that inference sees, and offsets say which of them are the assistant's.
"""

from array import array
from dataclasses import dataclass

import numpy as np

from data.conversation import Conversation, Media, with_system_prompt
from data.errors import UserError
from data.video_llava import PLACEHOLDERS, VisualTokens

IGNORE_INDEX = -100


@dataclass(frozen=True, slots=True)
class Sample:
    """One tokenised conversation, small enough to keep a data set of them in memory.

    `input_ids` has ONE id for each picture or clip (see `expand`); `trained` are the half-open index ranges of
    the assistant's words with their EOS; `media` are in order of appearance; `num_turns_dropped` counts the
    trailing questions that `max_length` cost.
    """

    input_ids: array
    trained: tuple[tuple[int, int], ...]
    media: tuple[Media, ...]
    name: str
    num_turns_dropped: int = 0

    @property
    def labels(self) -> array:
        """`input_ids` where trained, -100 elsewhere; unshifted."""
        labels = array("i", [IGNORE_INDEX]) * len(self.input_ids)
        for start, end in self.trained:
            labels[start:end] = self.input_ids[start:end]
        return labels


def render(messages: list[dict], tokenizer, *, generation_prompt: bool) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)


def encode_prompt(messages: list[dict], tokenizer, visual_tokens: VisualTokens) -> np.ndarray:
    """The ids, int32 (T,), that `generate` is given for `messages`, placeholders expanded."""
    ids = tokenizer(render(messages, tokenizer, generation_prompt=True)).input_ids
    return expand(ids, ids, tokenizer, visual_tokens)[0]


def encode(
    conversation: Conversation,
    tokenizer,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None = None,
) -> Sample | None:
    """Tokenise one conversation and find the assistant's tokens.

    Whole trailing turns are dropped until at most `max_length` tokens are left, visual tokens included; None when
    not even the first turn fits. Raises UserError naming the row.
    """
    messages = with_system_prompt(conversation.messages, system_prompt)
    _refuse_special_tokens(messages, tokenizer, conversation.name)
    text = render(messages, tokenizer, generation_prompt=False)
    encoded = tokenizer(text, return_offsets_mapping=True)
    spans = _answer_spans(messages, text, tokenizer, conversation.name)
    trained = [_tokens_of(span, encoded.offset_mapping, conversation.name) for span in spans]

    counts = _repeats(np.array(encoded.input_ids), tokenizer, visual_tokens)
    lengths = np.cumsum(counts)
    fitting = [span for span in trained if lengths[span[1] - 1] <= max_length]
    if not fitting:
        return None
    ids = array("i", encoded.input_ids[: fitting[-1][1]])
    num_media = sum(ids.count(tokenizer.convert_tokens_to_ids(token)) for token in PLACEHOLDERS.values())
    return Sample(
        input_ids=ids,
        trained=tuple(fitting),
        media=conversation.media[:num_media],
        name=conversation.name,
        num_turns_dropped=len(trained) - len(fitting),
    )


def expand(ids, labels, tokenizer, visual_tokens: VisualTokens) -> tuple[np.ndarray, np.ndarray]:
    """Repeat each placeholder id as often as its picture or clip has visual tokens; int32 (T,) ids and labels."""
    ids, labels = np.asarray(ids, dtype=np.int32), np.asarray(labels, dtype=np.int32)
    counts = _repeats(ids, tokenizer, visual_tokens)
    return np.repeat(ids, counts), np.repeat(labels, counts)


def _repeats(ids: np.ndarray, tokenizer, visual_tokens: VisualTokens) -> np.ndarray:
    counts = np.ones(len(ids), dtype=np.int64)
    for kind, token in PLACEHOLDERS.items():
        counts[ids == tokenizer.convert_tokens_to_ids(token)] = visual_tokens.of(kind)
    return counts


def _answer_spans(messages: list[dict], text: str, tokenizer, name: str) -> list[tuple[int, int]]:
    """Half-open character ranges from the end of each generation prompt to the end of the EOS behind the answer."""
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(messages[:number], tokenizer, generation_prompt=True)
        answered = render(messages[: number + 1], tokenizer, generation_prompt=False)
        if not (answered.startswith(prompt) and text.startswith(answered)):
            raise UserError(
                f"{name}: the chat template rewrites earlier turns when a turn is added, so training and inference "
                "would see different prompts; give the processor a template that only appends"
            )
        spans.append((len(prompt), answered.rindex(tokenizer.eos_token) + len(tokenizer.eos_token)))
    return spans


def _tokens_of(span: tuple[int, int], offsets: list[tuple[int, int]], name: str) -> tuple[int, int]:
    """The half-open token range of a character range that must begin and end between two tokens."""
    start, end = span
    inside = [index for index, (first, _) in enumerate(offsets) if start <= first < end]
    if any(first < edge < last for first, last in offsets for edge in span):
        raise UserError(
            f"{name}: the tokenizer joins the end of the prompt and the answer in one token, so the prompt at "
            "inference would differ; the chat template's generation prompt must end where a token ends"
        )
    return inside[0], inside[-1] + 1


def _refuse_special_tokens(messages: list[dict], tokenizer, name: str) -> None:
    for message in messages:
        for part in message["content"]:
            for token in tokenizer.all_special_tokens:
                if token in part.get("text", ""):
                    raise UserError(f"{name}: the text holds the special token {token!r}; take it out")
