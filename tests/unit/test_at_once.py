"""Many conversations at once are what they are one by one, through the chat template: text, tokens, labels, errors."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import ByteLevel as ByteLevelOffsets
from tokenizers.processors import Sequence, TemplateProcessing
from tokenizers.trainers import BpeTrainer

from data.errors import UserError
from data.media.locate import Locator
from data.sources.conversation import parse_record
from data.tokens import answers, encoding
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
    """Return what `encode_all` gives, or its error, from batches of one and the letters of all tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "BATCH", 1)
        patch.setattr(answers, "_plain_range", lambda *arguments: None)
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
    made = tokenise(texts, processor.tokenizer)
    found = processor.tokenizer(texts, return_offsets_mapping=True)
    assert [each.ids for each in made] == found.input_ids and [each.offsets for each in made] == found.offset_mapping


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


@pytest.fixture(scope="session")
def by_bytes():
    """Return tokenizers of bytes, whose tokens of one letter have the same letters, and which may leave blanks out."""
    made = []
    for trims in (False, True):
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
        trainer = BpeTrainer(vocab_size=400, initial_alphabet=ByteLevel.alphabet(), special_tokens=["</s>", "<s>"])
        tokenizer.train_from_iterator([WORDS, "USER: red ASSISTANT: blue"], trainer)
        around = TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 0)])
        tokenizer.post_processor = Sequence([ByteLevelOffsets(trim_offsets=trims), around])
        made.append(tokenizer)
    return made


@given(
    st.lists(texts_of([*"ab \n:.<>é🎞▁", " red", "</s>", "<s>", "日本"]), min_size=1, max_size=6),
    st.booleans(),
    st.data(),
)
def test_tokens_of_an_answer_are_those_that_begin_in_it(by_bytes, pieces, trims, data):
    """Find them from both ends and among the letters of all tokens, for any stretch of letters."""
    text = "".join(pieces)
    stretches = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted).map(tuple)
    found, stretch = by_bytes[trims].encode(text), data.draw(stretches.filter(lambda pair: pair[0] < pair[1]))
    plain = answers._plain_range(stretch, found)
    if plain is not None:
        assert [plain] == list(answers._searched([stretch], found.offsets, "it"))


def test_an_answer_that_no_token_begins_is_searched_for(by_bytes):
    """A tokenizer may leave blanks out: the token of " red" then begins behind the blank."""
    text = by_bytes[True].encode("ASSISTANT: red</s>")
    assert answers._plain_range((10, 18), text) is None
    ((first, last),) = answers.tokens_of([(10, 18)], text, "it")
    assert [text.offsets[first][0], text.offsets[last - 1]] == [11, (14, 18)]
