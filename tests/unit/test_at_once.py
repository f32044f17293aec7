"""Many conversations at once are what they are one by one, through the chat template: text, tokens, labels, errors."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.media.locate import Locator
from data.sources.conversation import parse_record
from data.tokens import encoding
from data.tokens.encoding import encode_all, render, render_all, tokenise
from data.video_llava import CHAT_TEMPLATE, documented_prompt
from tests.tiny_data import WORDS
from train.model.build import build_processor, train_tokenizer


def texts_of(pieces: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=5).map("".join)


words = texts_of([*"ab \n:.<>é🎞▁", "USER:", " ASSISTANT:", "red"])
part = st.just({"type": "image"}) | st.just({"type": "video"}) | st.fixed_dictionaries(
    {"type": st.just("text"), "text": words}
)  # fmt: skip
dialogue = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.lists(part, max_size=4)}
    ),
    min_size=1,
    max_size=5,
)


@given(dialogue)
def test_the_documented_prompt_is_what_its_template_makes(processor, messages):
    tokenizer = processor.tokenizer
    assert tokenizer.chat_template == CHAT_TEMPLATE
    text, answers = documented_prompt(messages, tokenizer.eos_token)
    assert text == render(messages, tokenizer, generation_prompt=False)
    asked = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    for number, (start, end) in zip(asked, answers, strict=True):
        assert text[:start] == render(messages[:number], tokenizer, generation_prompt=True)
        assert text[:end] == render(messages[: number + 1], tokenizer, generation_prompt=False)


def by_the_template(dialogues, tokenizer):
    texts = render_all(dialogues, tokenizer, generation_prompt=False)
    return texts, list(encoding._answer_spans(dialogues, texts, tokenizer))


def one_by_one(*arguments):
    """Return what `encode_all` gives, or its error, without what is done at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "samples_at_once", lambda *arguments: None)
        patch.setattr(encoding, "render_with_answers", by_the_template)
        return outcome(*arguments)


def outcome(*arguments):
    found = []
    try:
        for pair in encode_all(*arguments):
            found.append(pair)
    except UserError as problem:
        found.append((str(problem), problem.record))
    return found


says = texts_of([*"ab \n:.é🎞▁", "USER:", "red ", "</s>", "<image>", "<video>", "<video>"])


@given(st.lists(says, min_size=1, max_size=5))
def test_texts_become_what_the_tokenizer_gives(processor, texts):
    processor.tokenizer(["long enough to be cut", "x"], padding=True, truncation=True, max_length=3)  # asked last
    ids, offsets = tokenise(texts, processor.tokenizer)
    found = processor.tokenizer(texts, return_offsets_mapping=True)
    assert (ids, offsets) == (found.input_ids, found.offset_mapping)


seldom = st.integers(0, 9).map(lambda number: number == 0)


@st.composite
def records(draw):
    """Return a record of some turns, whose media fit its places."""
    turns = []
    for number in range(draw(st.integers(1, 6))):
        role = "user" if number % 2 == draw(seldom) else "assistant"
        content = draw(says) if draw(st.booleans()) else draw(st.lists(says, max_size=2).map("".join))
        turn = {"role": role, "content": content}
        if role == "assistant" and draw(seldom):
            turn["train"] = False
        turns.append(turn)
    if draw(seldom):
        turns.insert(0, {"role": "system", "content": draw(says).replace("<image>", "").replace("<video>", "")})
    whole = "".join(turn["content"] for turn in turns)
    media = {kind: [f"{kind}{n}" for n in range(whole.count(f"<{kind}>"))] for kind in ("image", "video")}
    return {"messages": turns, **{kind: names for kind, names in media.items() if names}}


def conversations(drawn):
    found = []
    for number, record in enumerate(drawn):
        try:
            found.append(parse_record(record, f"train.json record {number}", Locator((Path("/m"),))))
        except UserError:  # not what is tested here
            continue
    return found


@given(
    st.lists(records(), max_size=5),
    st.sampled_from([None, "Be brief."]),
    st.sampled_from([20, 60, 170, 10**6]),
    st.booleans(),
)
def test_many_are_encoded_as_one_by_one(processor, other_template, visual_tokens, drawn, system_prompt, limit, other):
    tokenizer = (other_template if other else processor).tokenizer
    arguments = conversations(drawn), tokenizer, visual_tokens, limit, system_prompt
    assert outcome(*arguments) == one_by_one(*arguments)


@pytest.fixture(scope="session")
def other_template():
    other = build_processor(train_tokenizer([WORDS]), 56)
    other.tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE.replace("'USER: '", "'Q: '")
    return other


def test_tokens_that_come_in_another_order_are_left_to_the_slow_way(processor, visual_tokens, monkeypatch):
    """A tokenizer may put a token without letters, at (0, 0), behind the text."""
    calls = []
    at_once = encoding.samples_at_once

    def spy(batch, *more):
        behind = [[*each, (0, 0)] for each in batch.offsets]
        ids = [[*each, 1] for each in batch.ids]
        calls.append(at_once(type(batch)(**{**vars(batch), "offsets": behind, "ids": ids}), *more))
        return calls[-1]

    monkeypatch.setattr(encoding, "samples_at_once", spy)
    talk = conversations([{"query": "What?", "response": "red"}])
    arguments = talk, processor.tokenizer, visual_tokens, 99
    assert outcome(*arguments) == one_by_one(*arguments) and calls == [None]
