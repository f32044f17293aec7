"""Turns in any order: what is trained of them, token for token, and what inference is asked with."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.inspection.check import read_contents
from data.media.locate import Locator
from data.packing.groups import shared_prefix_groups
from data.sources.conversation import parse_record, read_conversations
from data.sources.forms import Reading
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from data.tokens.encoding import encode, encode_prompt
from data.tokens.samples import Samples
from data.video_llava import CHAT_TEMPLATE
from tests.source_samples import failure
from tests.tiny_data import WORDS
from train.model.build import build_processor, train_tokenizer
from train.results.evaluation import questions_of

ROLES = {"u": "user", "a": "assistant", "s": "system"}


def record_of(*texts: str, **media) -> dict:
    """Make a record of chat messages from texts such as "u: How?" and "a: red"."""
    turns = [{"role": ROLES[text[0]], "content": text[2:].strip()} for text in texts]
    return {"messages": turns, **media}


def talk(*texts: str, strict: bool = False, **media):
    reading = Reading(strict_turns=strict)
    return parse_record(record_of(*texts, **media), "train.json record 7", Locator((Path("/m"),)), reading)


# Turns -> tokens, with those that are trained in brackets; <0x0A> is a line end.
PROMPT = "▁AS SIS TAN T:"
ORDERS = {
    ("a: Hello", "u: <video>\nWhat?", "a: red"): (
        f"<s> {PROMPT} [▁He ll o </s>] ▁ ▁USER : ▁ <video> ▁ <0x0A> Wh at ? {PROMPT} [▁re d </s>]"),
    ("a: red",): f"<s> {PROMPT} [▁re d </s>]",
    ("s: small", "a: red"): f"<s> ▁small {PROMPT} [▁re d </s>]",
    ("s: small", "s: red", "u: What?", "a: red"): f"<s> ▁small <0x0A> re d ▁USER : ▁Wh at ? {PROMPT} [▁re d </s>]",
    ("u: What?", "u: How?", "a: red"): f"<s> ▁USER : ▁Wh at ? <0x0A> H ow ? {PROMPT} [▁re d </s>]",
    ("u: What?", "a: red", "a: blue"): f"<s> ▁USER : ▁Wh at ? {PROMPT} [▁re d <0x0A> bl ue </s>]",
    ("u: <video>", "u: What?", "a: red"): f"<s> ▁USER : ▁ <video> ▁ <0x0A> Wh at ? {PROMPT} [▁re d </s>]",
    ("u: What?", "u: <video>\nHow?", "a: red"): (
        f"<s> ▁USER : ▁Wh at ? <0x0A> <video> ▁ <0x0A> H ow ? {PROMPT} [▁re d </s>]"),
    ("u: What?", "a: red", "u: How?"): f"<s> ▁USER : ▁Wh at ? {PROMPT} [▁re d </s>]",
    ("u: What?", "a: red", "u: How?", "u: <video>"): f"<s> ▁USER : ▁Wh at ? {PROMPT} [▁re d </s>]",
    ("a: red", "u: <video>"): f"<s> {PROMPT} [▁re d </s>]",
    ("u: What?", "a:", "a: red"): f"<s> ▁USER : ▁Wh at ? {PROMPT} [▁re d </s>]",
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_what_is_trained_and_asked_token_for_token(order, processor, visual_tokens):
    media = {"video": "v.mp4"} if "<video>" in str(order) else {}
    conversation = talk(*order, **media)
    sample = encode(conversation, processor.tokenizer, visual_tokens, 9999)
    tokens = ORDERS[order].replace("[", "[ ").replace("]", " ]").split()
    is_trained, ids, labels = False, [], []
    for token in tokens:
        if token in "[]":
            is_trained = token == "["
            continue
        ids.append(processor.tokenizer.convert_tokens_to_ids(token))
        labels.append(ids[-1] if is_trained else -100)
    assert sample.input_ids.tolist() == ids and sample.labels.tolist() == labels
    assert len(sample.media) == ids.count(processor.video_token_id)
    for question in questions_of(conversation):
        prompt = encode_prompt(question.messages, processor.tokenizer, visual_tokens).tolist()
        shortened = [
            token for place, token in enumerate(prompt) if place == 0 or token != prompt[place - 1] or token > 5
        ]
        assert ids[: len(shortened)] == shortened and labels[len(shortened)] != -100
    assert [question.expected for question in questions_of(conversation)] == [
        "".join(part["text"] for part in message["content"])
        for message in conversation.messages
        if message["role"] == "assistant"
    ]


@pytest.mark.parametrize("flag", [{"loss": False}, {"weight": 0}, {"train": False}], ids=str)
def test_turns_that_a_record_keeps_out_of_the_loss_are_context(flag, processor, visual_tokens):
    turns = ("u: What?", "a: red", "u: How?", "a: up", "u: So?", "a: left")
    record = record_of(*turns)
    record["messages"][1] |= flag
    record["messages"][5] |= flag
    record["messages"][3] |= {key: not value for key, value in flag.items()}
    conversation = parse_record(record, "train.json record 7", Locator(()))
    sample = encode(conversation, processor.tokenizer, visual_tokens, 9999)
    whole = encode(talk(*turns[:4]), processor.tokenizer, visual_tokens, 9999)
    assert sample.input_ids == whole.input_ids and sample.trained == whole.trained[1:]
    (question,) = questions_of(conversation)
    assert (question.text, question.expected) == ("How?", "up") and len(question.messages) == 3

    for turn in record["messages"]:
        turn |= flag
    assert not parse_record(record, "train.json record 7", Locator(())).has_answer


@pytest.mark.parametrize(
    ("turn", "flag", "error"),
    [
        (1, {"loss": "no"}, "message 2, loss: expected true or false, 1 or 0, got 'no'"),
        (1, {"weight": 0.5}, "message 2, weight: expected true or false, 1 or 0, got 0.5"),
        (
            0,
            {"train": True},
            "message 1, train: these are the user's words, which are never trained; remove it",
        ),
        (
            2,
            {"loss": 0},
            "of messages 2 and 3, both the assistant's, one is trained and the other is not",
        ),
    ],
)
def test_what_cannot_be_kept_out_of_the_loss_is_named(turn, flag, error):
    record = record_of("u: What?", "a: red", "a: blue")
    record["messages"][turn] |= flag
    with pytest.raises(UserError) as problem:
        parse_record(record, "train.json record 7", Locator(()))
    assert error in str(problem.value)


def test_turns_of_one_side_are_what_one_turn_with_lines_would_be():
    several = talk("u: <image>\nHow?", "u: <video>\nWhat? <image>", "a: red", "a: blue", image=["i", "j"], video="v")
    one = talk("u: <image>\nHow?\n<video>\nWhat? <image>", "a: red\nblue", image=["i", "j"], video="v")
    assert (several.messages, several.media) == (one.messages, one.media)


@pytest.mark.parametrize("order", [("u: How?",), ("s: small",), ("s: small", "u: How?", "u: What?"), ("u:",)])
def test_without_an_answer_there_is_nothing_to_train(order, processor, visual_tokens):
    conversation = talk(*order)
    assert not conversation.has_answer and questions_of(conversation) == []
    assert encode(conversation, processor.tokenizer, visual_tokens, 9999).trained == ()
    assert questions_of(talk(*order, accept=["red"])) == []


def write(path: Path, *records: dict) -> Source:

    path.write_text(json.dumps(records))
    return Source(path)


def test_they_are_left_out_counted_and_named(processor, visual_tokens, tmp_path):
    source = write(tmp_path / "a.json", record_of("u: How?"), record_of("u: How?", "a: red"), record_of("s: small"))
    corpus = load_corpus([source], processor.tokenizer, visual_tokens, 512)
    assert len(corpus.samples) == 1 and corpus.samples[0].name == f"{tmp_path}/a.json record 2"
    names = [f"{tmp_path}/a.json record {number}" for number in (1, 3)]
    assert corpus.notices(512) == [f"2 conversations without an answer: {names[0]}, {names[1]}"]
    contents = read_contents([source], processor.tokenizer, visual_tokens, 512)
    assert contents.unanswered == names and contents.problems == [] and len(contents.samples) == 1
    source = write(tmp_path / "b.json", record_of("u: How?"))
    with pytest.raises(UserError, match="no conversation in it has an answer; nothing to train on"):
        load_corpus([source], processor.tokenizer, visual_tokens, 512)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (
            ("a: Hello", "u: How?", "a: red"),
            ": roles are assistant, user, assistant; with data.turns: strict, after an",
        ),
        (("u: How?", "u: What?", "a: red"), "user and assistant must take turns, user first"),
        (("u: How?", "a: red", "a: blue"), "user and assistant must take turns, user first"),
        (("s: small", "s: small", "u: How?", "a: red"), "must take turns"),
        (("u: How?", "a: red", "u: What?"), ": ends with the user's words and has no answer to train on"),
        (("u: How?",), ": ends with the user's words and has no answer to train on"),
        (("s: small",), ": ends with the user's words and has no answer to train on"),
    ],
)
def test_strict_refuses_them(order, message, tmp_path):
    with pytest.raises(UserError) as error:
        talk(*order, strict=True)
    assert str(error.value).startswith("train.json record 7") and message in str(error.value)
    source = write(tmp_path / "a.json", record_of(*order))
    assert list(read_conversations(source))  # as they come
    assert message in failure(Source(tmp_path / "a.json", strict_turns=True))


def test_a_system_text_behind_others_is_refused():
    with pytest.raises(
        UserError, match="message 3 is a system text; it must be the first \\(roles: user, assistant, sy"
    ):
        talk("u: How?", "a: red", "s: small", "u: What?", "a: blue")


def test_the_clip_is_shared_unless_the_assistant_speaks_before_it(processor, visual_tokens):
    def groups(*talks) -> list[tuple[int, ...]]:
        samples = Samples(encode(each, processor.tokenizer, visual_tokens, 512) for each in talks)
        found = shared_prefix_groups(samples, processor.tokenizer, visual_tokens, 32, 4096)
        return sorted(group.samples for group in found)

    ended = [
        talk("u: <video>\nHow?", "a: red", "u: What?", video="v"),
        talk("u: <video>", "u: So?", "a: up", video="v"),
    ]
    assert groups(*ended) == [(0, 1)]
    begun = [talk("a: Hello", "u: <video>\nHow?", "a: red", video="v")] * 2
    assert groups(*begun) == [(0,), (1,)]


def test_a_template_without_a_prompt_for_the_beginning_is_named(visual_tokens):
    strange = build_processor(train_tokenizer([WORDS]), 56)
    strange.tokenizer.chat_template = "{{ messages[0]['role'] and '' }}" + CHAT_TEMPLATE
    with pytest.raises(
        UserError, match="record 7: the assistant begins, and the chat template has no prompt before the"
    ):
        encode(talk("a: red"), strange.tokenizer, visual_tokens, 999)
    assert encode(talk("u: How?", "a: red"), strange.tokenizer, visual_tokens, 999).trained
