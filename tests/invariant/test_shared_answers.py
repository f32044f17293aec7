"""Answers behind a shared prefix are those of `generate`, one by one and token for token."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import GenerationConfig

from data.batches.pixels import PixelLoader
from data.media.reference import Media
from data.processor import measure_visual_tokens
from data.tokens.encoding import encode_prompt, placeholder_ids
from tests.tiny_adapters import random_adapter
from tests.tiny_data import WORDS
from train.answering import generation
from train.answering.choosing import Chooser
from train.answering.generation import AnswerJob, answer_groups
from train.answering.grouping import group_prompts
from train.answering.one_by_one import generate_alone, pass_by_pass
from train.model.build import build_config, build_model
from train.results.loading import greedy

MAX_NEW = 10


def text(words):
    return {"type": "text", "text": words}


def random_prompt(chance, media_folder):
    """Return a conversation of one to three turns about nothing, a clip, a picture, two of them, or both."""
    clip, picture = (
        Media("video", str(media_folder / "clip0.mp4")),
        Media("image", str(media_folder / "picture0.png")),
    )
    media = chance.choice([(), (clip,), (clip,), (clip,), (picture,), (picture, clip), (picture, picture)])
    words = WORDS.split()
    messages = [{"role": "system", "content": [text("Be brief.")]}] if chance.random() < 0.2 else []
    for turn in range(chance.choice([1, 1, 2, 3])):
        parts = [{"type": item.kind} for item in media] if turn == 0 else []
        said = " ".join(chance.choices(words[:6], k=chance.choice([1, 2, 3, 12])))
        messages.append({"role": "user", "content": [*parts, text(said)]})
        messages.append({"role": "assistant", "content": [text(chance.choice(words))]})
    return messages[:-1], media


class Pool:
    """Prompts of a model, and what `generate` says to each alone."""

    def __init__(self, model, processor, visual_tokens, prompts, config):
        self.model, self.tokenizer, self.config = model, processor.tokenizer, config
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        base.generation_config = config
        load = PixelLoader(processor, visual_tokens.num_frames)
        known = {item: load([item]) for _, media in prompts for item in media}
        self.pixels = lambda media: generation._joined(known[item] for item in media)
        self.encoded = [(encode_prompt(messages, self.tokenizer, visual_tokens), media) for messages, media in prompts]

    def alone(self, number, max_new=MAX_NEW):
        ids, media = self.encoded[number]
        seed = Chooser(self.config).seed_of(ids)
        return generate_alone(self.model, ids, self.pixels(media), max_new, seed)

    def together(self, numbers, max_new=MAX_NEW, room=2000, seed=0):
        groups = group_prompts([self.encoded[number] for number in numbers], list(self.visual_ids.values()))
        said = {}
        for some in answer_groups(self.model, AnswerJob(groups, self.pixels, max_new, room, seed)):
            said |= some
        return [said[at] for at in range(len(numbers))]

    @property
    def visual_ids(self):
        return placeholder_ids(self.tokenizer)


def with_ends(tokenizer):
    """Greedy, and every sixth token of the vocabulary ends an answer: some do so early."""
    config = greedy(tokenizer)
    config.eos_token_id = [tokenizer.eos_token_id, *range(6, len(tokenizer), 6)]
    return config


@pytest.fixture(scope="module")
def tiny(processor):
    return opinionated(build_model(build_config("tiny", processor.tokenizer)))


def opinionated(model):
    """Widen what its decoder's weights differ by: every question gets an answer of its own."""
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model.eval()


@pytest.fixture(scope="module")
def pool(tiny, processor, visual_tokens, media_folder):
    chance = random.Random(0)
    prompts = [random_prompt(chance, media_folder) for _ in range(30)]
    prompts += [prompts[0], (prompts[3][0][:-2] or prompts[3][0], prompts[3][1])]
    config = with_ends(processor.tokenizer)
    made = Pool(tiny, processor, visual_tokens, prompts, config)
    made.expected = [made.alone(number) for number in range(len(prompts))]
    assert len({len(said) for said in made.expected}) > 4  # they end early, and at different times
    return made


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_company_any_order_any_room(pool, data):
    """Groups, prefixes, lengths and ends as they come; greedy answers cut shorter begin those that are not."""
    pool.model.generation_config = pool.config
    numbers = data.draw(st.lists(st.sampled_from(range(len(pool.expected))), min_size=1, max_size=10))
    room, max_new = data.draw(st.sampled_from([1, 300, 600, 3000])), data.draw(st.integers(1, MAX_NEW))
    assert pool.together(numbers, max_new, room) == [pool.expected[number][:max_new] for number in numbers]


def test_an_empty_prefix(pool, processor):
    """Texts without a BOS share no id, and a prompt may be one id long."""
    encoded = [np.array(ids, dtype=np.int32) for ids in ([300], [301, 302, 303], [302, 7], [7])]
    own = SimpleNamespace(**{**vars(pool), "encoded": [(ids, ()) for ids in encoded], "visual_ids": pool.visual_ids})
    (group,) = group_prompts(own.encoded, list(pool.visual_ids.values()))
    assert len(group.prefix) == 0
    assert Pool.together(own, range(4)) == [generate_alone(pool.model, ids, {}, MAX_NEW, 0) for ids in encoded]


def test_no_more_keys_and_values_than_there_is_room(pool, monkeypatch):
    largest = []
    step = generation.Decoding.step

    def watched(self):
        prefixes = {id(each.prefix): each.prefix.length for each in self.answers}
        own = len(self.answers) * max(len(each.prompt) - each.prefix.length + MAX_NEW for each in self.answers)
        largest.append((sum(prefixes.values()) + own, len(self.answers)))
        return step(self)

    monkeypatch.setattr(generation.Decoding, "step", watched)
    numbers = range(len(pool.expected))
    longest = max(len(ids) for ids, _ in pool.encoded) + MAX_NEW
    for room in (longest, 2 * longest):
        largest.clear()
        assert pool.together(numbers, room=room) == pool.expected
        assert max(tokens for tokens, _ in largest) <= room
        assert max(answers for _, answers in largest) > 2  # but it is used


def about_clips(media_folder, num_clips, num_questions):
    words = WORDS.split()
    chance = random.Random(1)
    return [
        ([{"role": "user", "content": [{"type": "video"}, text(" ".join(chance.choices(words, k=4)))]}], (clip,))
        for clip in (Media("video", str(media_folder / f"clip{number}.mp4")) for number in range(num_clips))
        for _ in range(num_questions)
    ]


def test_passes_of_our_own_say_what_generate_says(pool):
    """Prompts that must be asked alone take these where weights are spread."""
    pool.model.generation_config = pool.config
    choose = Chooser(pool.config)
    for number in range(0, len(pool.expected), 4):
        ids, media = pool.encoded[number]
        assert pass_by_pass(pool.model, ids, pool.pixels(media), MAX_NEW, choose) == pool.expected[number]


def test_two_hundred_questions(tiny, processor, media_folder):
    prompts = about_clips(media_folder, 4, 50)
    pool = Pool(tiny, processor, measure_visual_tokens(processor, 2), prompts, with_ends(processor.tokenizer))
    alone = [pool.alone(number, 3) for number in range(200)]
    assert pool.together(range(200), 3, room=8 * 60) == alone
    assert len(set(map(tuple, alone))) > 50


def few(model, processor, visual_tokens, media_folder, config):
    return Pool(model, processor, visual_tokens, about_clips(media_folder, 2, 4), config)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "shared_prefix_unmasked"])
def test_whatever_the_attention(attention, model, processor, visual_tokens, media_folder):
    model.set_attn_implementation({"text_config": attention})
    pool = few(model, processor, visual_tokens, media_folder, with_ends(processor.tokenizer))
    assert pool.together(range(8)) == [pool.alone(number) for number in range(8)]
    assert model.config.get_text_config()._attn_implementation == attention
    assert model.model.language_model.config._attn_implementation == attention


def test_heads_that_share_keys(processor, visual_tokens, media_folder):
    config = build_config("tiny", processor.tokenizer)
    config.text_config.num_key_value_heads = 2
    pool = few(opinionated(build_model(config)), processor, visual_tokens, media_folder, with_ends(processor.tokenizer))
    assert pool.together(range(8)) == [pool.alone(number) for number in range(8)]


@pytest.mark.parametrize("use_dora", [False, True])
def test_adapters(use_dora, model_folder, processor, visual_tokens, media_folder):
    model = random_adapter(model_folder, use_dora=use_dora).eval()
    pool = few(model, processor, visual_tokens, media_folder, with_ends(processor.tokenizer))
    assert pool.together(range(8)) == [pool.alone(number) for number in range(8)]


@pytest.mark.parametrize(
    "changed",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2, "eos_token_id": None},
        {"do_sample": True, "top_k": 1},
        {"num_beams": 2},
        {"min_new_tokens": 4},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_generation_configs_are_honoured(changed, tiny, processor, visual_tokens, media_folder, capsys):
    config = with_ends(processor.tokenizer)
    config.update(**changed)
    pool = few(tiny, processor, visual_tokens, media_folder, config)
    assert pool.together(range(4)) == [pool.alone(number) for number in range(4)]
    told = capsys.readouterr().err
    unknown = next(iter(changed)) in ("num_beams", "min_new_tokens")
    assert told.count("one question at a time") == unknown
    config.update(num_beams=1, min_new_tokens=None)


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_company(tiny, processor, visual_tokens, media_folder):
    config = GenerationConfig(do_sample=True, temperature=0.7, top_p=0.9, eos_token_id=2, pad_token_id=3)
    pool = few(tiny, processor, visual_tokens, media_folder, config)
    state = torch.get_rng_state()
    drawn = pool.together(range(8))
    assert pool.together(range(8)) == drawn
    assert [pool.together([number])[0] for number in range(8)] == drawn
    assert pool.together([7, 2, 5], room=1) == [drawn[7], drawn[2], drawn[5]]
    assert pool.together(range(8), seed=1) != drawn
    assert len(set(map(tuple, drawn))) == 8
    assert torch.equal(torch.get_rng_state(), state)


class Kept(Chooser):
    """Keeps the first logits of each answer."""

    first: dict

    def __call__(self, logits, answers):
        self.first |= {
            each.number: row.float().clone() for row, each in zip(logits, answers, strict=True) if not each.said
        }
        return super().__call__(logits, answers)


@pytest.mark.parametrize(("dtype", "quantization"), [("bfloat16", None), ("float16", None), ("float32", "nf4")])
def test_rounded_weights_give_near_logits(
    dtype, quantization, model_folder, processor, visual_tokens, media_folder, monkeypatch
):
    model = random_adapter(model_folder, quantization, dtype).eval()
    pool = few(model, processor, visual_tokens, media_folder, greedy(processor.tokenizer))
    monkeypatch.setattr(generation, "Chooser", Kept)
    Kept.first = {}
    pool.together(range(8), 4)
    for number, (ids, media) in enumerate(pool.encoded):
        pixels = {name: value.to(model.dtype) for name, value in pool.pixels(media).items()}
        with torch.inference_mode():
            wanted = model(input_ids=torch.tensor(ids[None].tolist()), **pixels).logits[0, -1].float()
        assert (Kept.first[number] - wanted).abs().max() <= 0.05 * wanted.abs().max()
