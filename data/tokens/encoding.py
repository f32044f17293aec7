"""Conversation -> token ids and which of them are trained, by tokenising the whole rendered text once.

Tokenising pieces and joining them is wrong for LLaMA's tokenizers, which put a blank in front of each piece. The
whole text gives the tokens that inference sees, and offsets say which of them are the assistant's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress, islice
from typing import TYPE_CHECKING, cast

import numpy as np
from tokenizers import Encoding, Tokenizer
from tokenizers.models import BPE, Unigram

from data.errors import UserError, one_line
from data.sources.conversation import Conversation, is_answer, with_system_prompt
from data.sources.guard import about_record
from data.tokens.answers import Range, tokens_of, without
from data.tokens.sample import IGNORE_INDEX as IGNORE_INDEX
from data.tokens.sample import Sample
from data.tokens.special import refuse_special_tokens, special_finder, texts_of
from data.video_llava import CHAT_TEMPLATE, PLACEHOLDERS, VisualTokens, documented_prompt

if TYPE_CHECKING:  # processes that tokenise begin sooner without torch
    from transformers import PreTrainedTokenizerBase

BATCH = 128  # conversations that are rendered and tokenised together
BATCH_SIZE = 2**22  # letters times messages, see MAX_WORK: of 128 conversations with 16 messages of 128 letters


def render(messages: list[dict], tokenizer: PreTrainedTokenizerBase, *, generation_prompt: bool) -> str:
    (text,) = render_all([messages], tokenizer, generation_prompt=generation_prompt)
    return text


def render_all(
    dialogues: list[list[dict]], tokenizer: PreTrainedTokenizerBase, *, generation_prompt: bool
) -> list[str]:
    if not dialogues:  # an empty list would be taken for one dialogue
        return []
    texts = tokenizer.apply_chat_template(dialogues, tokenize=False, add_generation_prompt=generation_prompt)
    return cast("list[str]", texts)


def render_with_answers(
    dialogues: list[list[dict]], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], list[list[tuple[int, int]] | None]]:
    """Return the text of each dialogue, and the letters of its answers (see `_answer_spans`)."""
    if tokenizer.chat_template == CHAT_TEMPLATE:
        eos = tokenizer.special_tokens_map["eos_token"]
        texts, answers = zip(*(documented_prompt(messages, eos) for messages in dialogues), strict=True)
        return list(texts), list(answers)
    texts = render_all(dialogues, tokenizer, generation_prompt=False)
    return texts, list(_answer_spans(dialogues, texts, tokenizer))


def encode_prompt(messages: list[dict], tokenizer: PreTrainedTokenizerBase, visual_tokens: VisualTokens) -> np.ndarray:
    """Return the ids, int32 (T,), that `generate` is given for `messages`, placeholders expanded."""
    ids = tokenizer(render(messages, tokenizer, generation_prompt=True)).input_ids
    return expand(ids, ids, tokenizer, visual_tokens)[0]


def encode(
    conversation: Conversation,
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None = None,
) -> Sample | None:
    """Tokenise one conversation and find the assistant's tokens.

    Whole trailing turns are dropped until at most `max_length` tokens are left, visual tokens included; None when
    not even the first turn fits. A conversation without an answer gives an empty sample. Raises UserError naming the
    record.
    """
    ((_, sample),) = encode_all([conversation], tokenizer, visual_tokens, max_length, system_prompt)
    return sample


def encode_all(
    conversations: Iterable[Conversation],
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None = None,
) -> Iterator[tuple[str, Sample | None]]:
    """Yield the name of each conversation and what `encode` makes of it; many at once, which is faster.

    The sample of a conversation without an answer is empty: it has no `trained` ranges.
    """
    return chain.from_iterable(encode_batches(conversations, tokenizer, visual_tokens, max_length, system_prompt))


def encode_batches(
    conversations: Iterable[Conversation],
    tokenizer: PreTrainedTokenizerBase,
    visual_tokens: VisualTokens,
    max_length: int,
    system_prompt: str | None = None,
) -> Iterator[list[tuple[str, Sample | None]]]:
    """Yield what `encode_all` does in lists of at most BATCH; no conversation is read that is not in them."""
    find_special = special_finder(tokenizer)
    repeats = {number: visual_tokens.of(kind) for kind, number in placeholder_ids(tokenizer).items()}
    keep_no_texts(tokenizer.backend_tokenizer)

    def encode_batch(batch: list[Conversation]) -> list[tuple[str, Sample | None]]:
        answered = [conversation for conversation in batch if conversation.has_answer]
        samples = encode_answered(answered)
        if len(answered) == len(batch):
            return [(each.name, sample) for each, sample in zip(batch, samples, strict=True)]
        return [
            (each.name, next(samples) if each.has_answer else Sample(array("i"), (), (), each.name)) for each in batch
        ]

    def encode_answered(batch: list[Conversation]) -> Iterator[Sample | None]:
        if not batch:
            return
        dialogues = [with_system_prompt(conversation.messages, system_prompt) for conversation in batch]
        for conversation, messages in zip(batch, dialogues, strict=True):
            _check_beginning(messages, tokenizer, conversation.name)
        texts, spans = render_with_answers(dialogues, tokenizer)
        encodings = tokenise(texts, tokenizer)
        has_special = find_special("\n".join(texts_of(dialogues))) is not None
        for conversation, messages, found, answers in zip(batch, dialogues, encodings, spans, strict=True):
            if has_special:
                refuse_special_tokens(messages, find_special, conversation.name)
            trained = tokens_of(answers, found, conversation.name)
            asked = [is_answer(message) for message in messages if message["role"] == "assistant"]
            if not all(asked):
                trained = list(compress(trained, asked))
            yield _sample(conversation, found.ids, trained, repeats, max_length)

    for batch in _batches(conversations):
        try:
            yield encode_batch(batch)
        except Exception:  # which of them it is, shows one by one, behind those before it
            for conversation in batch:
                with about_record(conversation.name):
                    pairs = encode_batch([conversation])
                yield pairs


def _check_beginning(messages: list[dict], tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise UserError where the assistant begins and the chat template has no prompt for that."""
    if messages[0]["role"] == "assistant":
        try:
            render([], tokenizer, generation_prompt=True)
        except Exception as error:  # whatever a template of strangers does without a message
            raise UserError(
                f"{name}: the assistant begins, and the chat template has no prompt before the first message "
                f"({one_line(error)}); put a user's turn before it, or set data.system_prompt"
            ) from error


def tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Encoding]:
    """Return for each text what `tokenizer(texts)` makes its lists of, which takes as long as the tokenising."""
    tokenizer("")  # which says how its backend is to split, and that nothing is padded or cut
    return tokenizer.backend_tokenizer.encode_batch(texts)


def keep_no_texts(tokenizer: Tokenizer) -> None:
    """Stop a tokenizer from remembering the last 10,000 words that it has split, where a word is a whole text.

    To LLaMA's tokenizer it is, and a text does not come again: 50 MB for nothing.
    """
    splitter, model = tokenizer.pre_tokenizer, tokenizer.model
    if isinstance(model, BPE | Unigram) and (splitter is None or len(splitter.pre_tokenize_str("two words")) == 1):
        model._resize_cache(0)  # it has no public name


def _batches(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    """Yield batches of BATCH conversations, of fewer where they are long.

    Conversations before a record that cannot be read come out before its error.
    """
    batch, size = [], 0
    try:
        for conversation in conversations:
            batch.append(conversation)
            size += conversation.num_letters * len(conversation.messages)
            if len(batch) == BATCH or size > BATCH_SIZE:
                yield batch
                batch, size = [], 0
    except UserError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _sample(
    conversation: Conversation,
    ids: list[int],
    trained: list[Range],
    repeats: Mapping[int, int],
    max_length: int,
) -> Sample | None:
    """Make a sample of `conversation` up to the last turn that fits; None where none does.

    repeats: placeholder id -> how many tokens it stands for.
    """
    fitting, num_media = trained, 0
    length = len(ids)
    for token, number in repeats.items():
        num_media += (count := ids.count(token))
        length += count * (number - 1)
    if length > max_length:
        lengths = np.cumsum(_counts(np.array(ids), repeats))
        fitting = [span for span in trained if lengths[span[1] - 1] <= max_length]
        if not fitting:
            return None
    start, end = fitting[0][0], fitting[-1][1]
    if end < len(ids):
        ids = ids[:end]
        num_media = sum(map(ids.count, repeats))
    if num_media and any(token in ids[start:] for token in repeats):
        words = tuple(words for span in fitting for words in without(repeats.keys(), ids, span))
    else:
        words = tuple(fitting)
    media, num_dropped = conversation.media[:num_media], len(trained) - len(fitting)
    return Sample(array("i", ids), words, media, conversation.name, num_dropped)


def placeholder_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return for each kind of media the id of its placeholder."""
    return {kind: cast("int", tokenizer.convert_tokens_to_ids(token)) for kind, token in PLACEHOLDERS.items()}


def expand(
    ids: Sequence[int], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase, visual_tokens: VisualTokens
) -> tuple[np.ndarray, np.ndarray]:
    """Repeat each placeholder id as often as its picture or clip has visual tokens; int32 (T,) ids and labels."""
    short = np.asarray(ids, dtype=np.int32)
    counts = _repeats(short, tokenizer, visual_tokens)
    return np.repeat(short, counts), np.repeat(np.asarray(labels, dtype=np.int32), counts)


def num_tokens(sample: Sample, visual_tokens: VisualTokens) -> int:
    """Return the length of a conversation in the decoder's input, visual tokens included."""
    return len(sample.input_ids) + sum(visual_tokens.of(media.kind) - 1 for media in sample.media)


def _repeats(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, visual_tokens: VisualTokens) -> np.ndarray:
    return _counts(ids, {number: visual_tokens.of(kind) for kind, number in placeholder_ids(tokenizer).items()})


def _counts(ids: np.ndarray, repeats: Mapping[int, int]) -> np.ndarray:
    """Return how many tokens of the decoder's input each id stands for, int64 (T,)."""
    counts = np.ones(len(ids), dtype=np.int64)
    for token, number in repeats.items():
        counts[ids == token] = number
    return counts


def _answer_spans(
    dialogues: list[list[dict]], texts: list[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[tuple[int, int]] | None]:
    """Find the answers in the text of each dialogue: half-open character ranges, each from the end of a generation
    prompt to the end of the EOS behind the answer.

    A prompt, and the dialogue up to an answer, are rendered by themselves, as inference renders them, and must be
    beginnings of the whole text. Yields None where one of them is not.
    """
    eos, roles = tokenizer.eos_token, [[message["role"] for message in messages] for messages in dialogues]
    answers = [[number for number, role in enumerate(each) if role == "assistant"] for each in roles]
    cuts = [(messages, number) for messages, numbers in zip(dialogues, answers, strict=True) for number in numbers]
    asked = [messages[:number] for messages, number in cuts]
    answered = [messages[: number + 1] for messages, number in cuts if number + 1 < len(messages)]
    prompts = iter(render_all(asked, tokenizer, generation_prompt=True))
    shorter = iter(render_all(answered, tokenizer, generation_prompt=False))
    for text, numbers in zip(texts, answers, strict=True):
        # The last answer ends the text.
        pairs = list(zip(islice(prompts, len(numbers)), [*islice(shorter, len(numbers) - 1), text], strict=True))
        if all(after.startswith(before) and text.startswith(after) for before, after in pairs):
            yield [(len(before), after.rindex(eos) + len(eos)) for before, after in pairs]
        else:
            yield None
