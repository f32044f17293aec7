"""Tokens in training = tokens at inference, and labels are the assistant's words and EOS, nothing else."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.batches.collator import PaddedCollator, RowCollator
from data.media.locate import Locator
from data.packing.dataset import shared_prefix_rows, single_sample_rows
from data.processor import measure_visual_tokens
from data.sources.conversation import parse_record
from data.tokens.encoding import encode, encode_prompt, expand
from tests.llama_tokenizers import KINDS
from tests.tiny_data import turns
from train.model.build import build_processor

CONVERSATIONS = [
    ("<video>\nWhat colour is the shape?", "red"),
    ("<image>\n<video>\nWhat?", "a small square", "Which way does it move?", "left", "And now?", "up"),
    ("Hello", ""),
    ("Hello", "", "again <image> here", "fine"),
    ("<video>\nWas ist das für 1 Ding? 🎬", "ein größeres Dreieck 🔺 東京\n\nzwei Zeilen  und Blanks"),
    ("<image>\n中文", "你好", "<video>", "no words before"),
    ("Show a card", "<video>\nHere it is", "<image>\nAnd?", "<image> and <image>", "More", "<image>"),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def processor(request, tmp_path_factory):
    return build_processor(request.param(tmp_path_factory.mktemp("tokenizer")), image_size=28)


@pytest.fixture(scope="module")
def visual_tokens(processor):
    return measure_visual_tokens(processor, num_frames=2)


def conversation_of(texts):
    record = {"conversations": turns(*texts)}
    for kind, files in {"image": "i{}.png", "video": "v{}.mp4"}.items():
        record[kind] = [files.format(n) for n in range(" ".join(texts).count(f"<{kind}>"))]
    return parse_record(record, "record 1", Locator((Path("/m"),)))


def encoded(conversation, processor, visual_tokens, system_prompt=None):
    sample = encode(conversation, processor.tokenizer, visual_tokens, 10**6, system_prompt)
    return expand(sample.input_ids, sample.labels, processor.tokenizer, visual_tokens)


def check_every_prefix(conversation, processor, visual_tokens):
    ids, labels = encoded(conversation, processor, visual_tokens)
    eos, trained = processor.tokenizer.eos_token_id, np.zeros(len(ids), dtype=bool)
    for number, message in enumerate(conversation.messages):
        if message["role"] == "assistant":
            prompt = encode_prompt(conversation.messages[:number], processor.tokenizer, visual_tokens)
            assert ids[: len(prompt)].tolist() == prompt.tolist()
            end = len(prompt) + ids[len(prompt) :].tolist().index(eos)
            answer = ids[len(prompt) : end]
            is_visual = np.isin(answer, [processor.image_token_id, processor.video_token_id])
            trained[len(prompt) : end + 1] = [*~is_visual, True]
            assert (is_visual.sum()) == sum(
                visual_tokens.of(part["type"]) for part in message["content"] if "text" not in part
            )
            if not is_visual.any():
                words = "".join(part["text"] for part in message["content"])
                assert processor.tokenizer.decode(answer, skip_special_tokens=True).strip() == words.strip()
    assert (labels != -100).tolist() == trained.tolist()
    assert labels[trained].tolist() == ids[trained].tolist()


@pytest.mark.parametrize("texts", CONVERSATIONS)
def test_every_prompt_is_the_start_of_the_training_tokens(texts, processor, visual_tokens):
    check_every_prefix(conversation_of(texts), processor, visual_tokens)


# Without "<" there is no placeholder; "▁" is how SentencePiece writes a blank, so it does not come back.
plain_text = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="<▁"), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(plain_text, min_size=1, max_size=3), st.lists(plain_text, min_size=3, max_size=3))
def test_any_text(processor, visual_tokens, questions, answers):
    texts = [text for pair in zip(questions, answers, strict=False) for text in pair]
    check_every_prefix(conversation_of(texts), processor, visual_tokens)


words = st.text("abc ", min_size=1, max_size=6).filter(str.strip).map(lambda text: {"type": "text", "text": text})
media = st.sampled_from([{"type": "image", "path": "i.png"}, {"type": "video", "path": "v.mp4"}])
parts = st.lists(words | media, min_size=1, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(st.tuples(parts, parts), min_size=1, max_size=3), min_size=1, max_size=4), st.booleans())
def test_media_anywhere(processor, visual_tokens, talks, is_typed):
    """Media stand in questions and answers, typed or in LLaVA's texts: prompts are those of inference, and labels of
    packed rows are those of the conversations by themselves: words and EOS."""
    conversations = []
    for talk in talks:
        contents = [content for pair in talk for content in pair]
        if is_typed:
            roles = ("user", "assistant")
            record = {"messages": [{"role": roles[n % 2], "content": each} for n, each in enumerate(contents)]}
            conversations.append(parse_record(record, "record 1", Locator((Path("/m"),))))
        else:
            texts = ["".join(part.get("text", f"<{part['type']}>") for part in each) for each in contents]
            conversations.append(conversation_of(texts))
        check_every_prefix(conversations[-1], processor, visual_tokens)
    samples = [encode(each, processor.tokenizer, visual_tokens, 10**6) for each in conversations]
    rows = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, 32, 2000, seed=0)
    collate, labels = RowCollator(processor, visual_tokens, load_pixels=NoPixels()), Counter()
    for row in rows.rows(epoch=0):
        batch = collate([rows[row]])
        is_visual = torch.isin(batch["input_ids"], torch.tensor([processor.image_token_id, processor.video_token_id]))
        assert (batch["labels"][is_visual] == -100).all()
        labels.update(batch["labels"].flatten().tolist())
    expected = Counter(label for sample in samples for label in sample.labels)
    del labels[-100], expected[-100]
    assert labels == expected


sides = st.sampled_from(["user", "assistant"])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.tuples(sides, parts), min_size=1, max_size=5)), min_size=1, max_size=4
    )
)
def test_turns_in_any_order_with_media_anywhere(processor, visual_tokens, talks):
    """Prompts are those of inference, and packing changes no token and no label of any conversation."""
    samples = []
    for has_system, turns_ in talks:
        messages = [{"role": "system", "content": "abc"}] * has_system
        messages += [{"role": role, "content": content} for role, content in turns_]
        conversation = parse_record({"messages": messages}, "record 1", Locator((Path("/m"),)))
        sample = encode(conversation, processor.tokenizer, visual_tokens, 10**6)
        assert bool(sample.trained) == any(role == "assistant" for role, _ in turns_)
        if sample.trained:
            check_every_prefix(conversation, processor, visual_tokens)
            samples.append(sample)
    if samples:
        shared = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, 32, 2000, seed=0)
        alone = single_sample_rows(samples, visual_tokens, seed=0)
        assert unpacked(shared, processor, visual_tokens) == unpacked(alone, processor, visual_tokens)


def unpacked(rows, processor, visual_tokens) -> list[tuple[list[int], list[int]]]:
    """Return ids and labels of each conversation in batches, sorted."""
    found, no_pixels = [], {"load_pixels": NoPixels()}
    for row in rows.rows(epoch=0):
        if rows.max_tokens_per_row is None:
            batch = PaddedCollator(processor, visual_tokens, **no_pixels)([rows[row]])
            found.append(tuple(batch[name][0].tolist() for name in ("input_ids", "labels")))
            continue
        batch = RowCollator(processor, visual_tokens, **no_pixels)([rows[row]])
        layout = batch["row_layout"]
        parts = [batch[name][0].split(layout.group_lengths) for name in ("input_ids", "labels")]
        for (prefix, suffixes), *values in zip(layout.groups, *parts, strict=True):
            prefixes, *others = zip(*(value.split([prefix, *suffixes]) for value in values), strict=True)
            found += [tuple(torch.cat(pair).tolist() for pair in zip(prefixes, other, strict=True)) for other in others]
    return sorted(found)


class NoPixels:
    """Decodes nothing."""

    def fitted(self, item):
        return torch.empty(0)

    def inputs(self, pictures, clips):
        return {}

    def empty(self, kinds):
        return {}


@pytest.mark.parametrize("texts", CONVERSATIONS[:2])
def test_ids_and_pixels_are_those_of_the_processor(texts, processor, visual_tokens):
    conversation = conversation_of(texts)
    random = np.random.default_rng(0)
    kinds = [media.kind for media in conversation.media]
    pictures = [
        Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(kinds.count("image"))
    ]
    clips = [random.integers(0, 256, (2, 33, 57, 3), dtype=np.uint8) for _ in range(kinds.count("video"))]
    text = processor.apply_chat_template(conversation.messages[:-1], tokenize=False, add_generation_prompt=True)
    theirs = processor(text=text, images=pictures or None, videos=clips or None, return_tensors="pt")
    ours = encode_prompt(conversation.messages[:-1], processor.tokenizer, visual_tokens)
    assert ours.tolist() == theirs["input_ids"][0].tolist()


def test_documented_prompt(processor):
    conversation = conversation_of(("<video>\nQ", "A", "R", "B"))
    text = processor.apply_chat_template(conversation.messages, tokenize=False)
    assert text == "USER: <video>\nQ ASSISTANT: A</s> USER: R ASSISTANT: B</s>"


def test_system_prompt_is_in_the_prompt_and_not_trained(processor, visual_tokens):
    conversation = conversation_of(("Q", "A"))
    with_system = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        *conversation.messages,
    ]
    ids, labels = encoded(conversation, processor, visual_tokens, system_prompt="Be brief.")
    prompt = encode_prompt(with_system[:2], processor.tokenizer, visual_tokens)
    assert ids[: len(prompt)].tolist() == prompt.tolist()
    assert (labels[: len(prompt)] == -100).all() and (labels[len(prompt) :] != -100).all()
