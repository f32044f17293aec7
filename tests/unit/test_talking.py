"""A conversation whose beginnings are kept says what `generate` says to the whole of it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from data.batches.pixels import PixelLoader
from data.decoding.decode import decode
from data.errors import MediaError, SettingError, UserError
from data.media.frame_sampling import FrameSampling
from data.media.reference import Media
from tests.tiny_adapters import random_adapter
from train.answering.one_by_one import generate_alone
from train.model.build import build_config, build_model
from train.results.loading import greedy
from train.talking.prefixes import Prompt
from train.talking.sampling import Sampling
from train.talking.talker import Talker, TooLong

NUM_TOKENS = 12
VIDEO, IMAGE = {"type": "video"}, {"type": "image"}


def user(*parts):
    return {"role": "user", "content": [part if isinstance(part, dict) else text(part) for part in parts]}


def assistant(words):
    return {"role": "assistant", "content": [text(words)]}


def text(words):
    return {"type": "text", "text": words}


@pytest.fixture(scope="module")
def tiny(processor):
    model = build_model(build_config("tiny", processor.tokenizer)).eval()
    model.generation_config = greedy(processor.tokenizer)
    return model


@pytest.fixture
def decoded():
    """The paths of what was decoded."""
    return []


@pytest.fixture
def talker(tiny, processor, decoded):
    return talker_of(tiny, processor, decoded)


def talker_of(model, processor, decoded, **settings):
    def noted(item, num_frames):
        decoded.append(item.path)
        return decode(item, num_frames)

    return Talker(model, processor, num_frames=8, decode=noted, **settings)


@pytest.fixture
def clips(media_folder):
    return [Media("video", str(media_folder / f"clip{number}.mp4")) for number in range(4)]


@pytest.fixture
def picture(media_folder):
    return Media("image", str(media_folder / "picture0.png"))


def ask(talker, messages, media, sampling=None):
    """Return a reply that was read to its end."""
    prompt = talker.prompt(messages, media)
    reply = talker.reply(prompt, media, sampling or Sampling(max_tokens=NUM_TOKENS))
    pieces = list(reply)
    assert "".join(pieces) == reply.text
    return reply


def expect(talker, reply):
    """Check a reply against `generate` on its whole prompt, without anything that is kept."""
    alone = generated(talker, reply)
    assert reply.said == alone
    assert reply.text == talker.processor.tokenizer.decode(alone, skip_special_tokens=True).strip()


def generated(talker, reply):
    pixels = PixelLoader(talker.processor, 8)(reply.media)
    return generate_alone(talker.model, reply.prompt.ids, pixels, reply.max_tokens, seed=0)


def test_every_turn_answers_as_generate_does_on_the_whole_conversation(talker, clips, picture, decoded):
    """Words, then a clip, then words, then a picture and a second clip in one turn, then words."""
    messages, media = [], []
    for question, shown in [
        (["Hello, how are you?"], []),
        ([VIDEO, "What colour is the shape?"], clips[:1]),
        (["Which way does it move?"], []),
        (["Compare", IMAGE, "and", VIDEO, "these"], [picture, clips[1]]),
        (["How do they differ?"], []),
    ]:
        messages, media = [*messages, user(*question)], [*media, *shown]
        reply = ask(talker, messages, media)
        expect(talker, reply)
        messages.append(assistant("a small square moves to the right"))
    assert decoded == [clips[0].path, picture.path, clips[1].path]


def test_a_second_question_computes_its_own_words_alone(talker, clips):
    """The answer is one that the tokenizer spells as the model says it."""
    first = [user(VIDEO, "What colour is the shape?")]
    reply = ask(talker, first, clips[:1])
    assert reply.num_kept == 0
    (kept,) = talker.store._kept
    said = talker.processor.tokenizer("red", add_special_tokens=False).input_ids
    second = talker.prompt([*first, assistant("red"), user("And now?")], clips[:1])
    known = talker.store.known(second)
    assert known >= len(reply.prompt.ids) and list(second.ids[len(reply.prompt.ids) :][: len(said)]) == said
    assert kept.tails[0].length == len(reply.prompt.ids) + len(reply.said) - 1  # the last token was never read


def test_what_the_model_said_is_not_computed_again(talker, clips):
    """Feed it its own tokens: the next prompt begins with all of them."""
    reply = ask(talker, [user(VIDEO, "What?")], clips[:1])
    ids = [*reply.prompt.ids, *reply.said, *talker.processor.tokenizer(" And?", add_special_tokens=False).input_ids]
    following = Prompt(np.array(ids, dtype=np.int32), reply.prompt.keys, reply.prompt.runs)
    second = talker.reply(following, clips[:1], Sampling(max_tokens=NUM_TOKENS))
    list(second)
    assert second.num_kept == len(reply.prompt.ids) + len(reply.said) - 1
    expect(talker, second)


def test_another_question_about_the_same_clip_shares_it(talker, clips, visual_tokens, decoded):
    ask(talker, [user(VIDEO, "What colour is the shape?")], clips[:1])
    other = ask(talker, [user(VIDEO, "Which way does it move?")], clips[:1])
    assert other.num_kept >= visual_tokens.video and len(decoded) == 1 and len(talker.store) == 1
    expect(talker, other)
    again = ask(talker, [user(VIDEO, "What colour is the shape?")], clips[:1])
    assert again.num_kept == len(again.prompt.ids) - 1
    expect(talker, again)


def test_what_differs_is_never_shared(talker, clips, picture, visual_tokens):
    """The ids of all these begin alike: only what is shown, or a system text, tells them apart."""
    part = Media("video", clips[0].path, start=0.2, end=0.6)
    for media in (clips[:1], clips[1:2], [part]):
        reply = ask(talker, [user(VIDEO, "What colour is the shape?")], media)
        assert reply.num_kept == 0
        expect(talker, reply)
    for media, kept in (([clips[1], clips[0]], 1), ([clips[0], part], 1), ([clips[3], clips[0]], 0)):
        reply = ask(talker, [user(VIDEO, VIDEO, "Compare these")], media)
        assert reply.num_kept // visual_tokens.video == kept
        expect(talker, reply)
    system = {"role": "system", "content": [text("Describe")]}
    reply = ask(talker, [system, user(VIDEO, "What colour is the shape?")], clips[:1])
    assert reply.num_kept == 0
    expect(talker, reply)


def test_the_beginning_of_a_longer_conversation_is_shared(talker, clips, visual_tokens):
    ask(talker, [user(VIDEO, VIDEO, "Compare these")], clips[:2])
    for words in ("What colour is the shape?", "Which way does it move?"):
        reply = ask(talker, [user(VIDEO, words)], clips[:1])
        assert visual_tokens.video <= reply.num_kept < 2 * visual_tokens.video
        expect(talker, reply)


def test_a_file_that_changes_is_another_clip(talker, clips, tmp_path):
    path = tmp_path / "clip.mp4"
    item = Media("video", str(path))
    for clip in clips[:2]:
        shutil.copy(clip.path, path)
        reply = ask(talker, [user(VIDEO, "What?")], [item])
        assert reply.num_kept == 0
        expect(talker, reply)
    path.unlink()
    with pytest.raises(MediaError, match="No such file"):
        talker.prompt([user(VIDEO, "What?")], [item])


def test_the_frames_are_chosen_as_in_training(tiny, processor, clips):
    sampling = FrameSampling("fps", 12.0)
    talker = talker_of(tiny, processor, [], frame_sampling=sampling)
    reply = ask(talker, [user(VIDEO, "What?")], clips[:1])
    pixels = PixelLoader(processor, 8)([replace(clips[0], sampling=sampling)])
    alone = generate_alone(tiny, reply.prompt.ids, pixels, reply.max_tokens, seed=0)
    assert reply.said == alone != generated(talker, reply)


def test_memory_has_a_limit_and_the_latest_stay(tiny, processor, clips, decoded):
    talker = talker_of(tiny, processor, decoded)
    ask(talker, [user(VIDEO, "What?")], clips[:1])
    one = talker.store.num_bytes
    talker = talker_of(tiny, processor, decoded, max_bytes=int(2.5 * one))
    for number in (0, 1, 0, 2):
        ask(talker, [user(VIDEO, "What?")], clips[number : number + 1])
        assert talker.store.num_bytes <= 2.5 * one
    kept = [talker.store.known(talker.prompt([user(VIDEO, "What?")], [clip])) > 0 for clip in clips]
    assert kept == [True, False, True, False]
    nothing = talker_of(tiny, processor, decoded, max_bytes=0)
    for _ in range(2):
        reply = ask(nothing, [user(VIDEO, "What?")], clips[:1])
        assert reply.num_kept == 0 and nothing.store.num_bytes == 0
        expect(nothing, reply)


def test_many_conversations_about_one_clip_do_not_add_up(talker, clips):
    for number in range(6):
        ask(talker, [user(VIDEO, f"What {number}?")], clips[:1])
    assert len(talker.store._kept[0].tails) == 4


def test_an_answer_may_be_left_and_the_conversation_goes_on(talker, clips):
    messages = [user(VIDEO, "What colour is the shape?")]
    reply = talker.reply(talker.prompt(messages, clips[:1]), clips[:1], Sampling(max_tokens=NUM_TOKENS))
    pieces = iter(reply)
    first = next(pieces)
    pieces.close()
    assert reply.finish is None and reply.text == first
    again = ask(talker, messages, clips[:1])
    assert again.num_kept == len(again.prompt.ids) - 1
    expect(talker, again)


def test_words_are_drawn_as_the_seed_says(talker, clips):
    messages = [user(VIDEO, "What colour is the shape?")]

    def draw(seed, **options):
        return ask(talker, messages, clips[:1], Sampling(1.5, seed=seed, max_tokens=NUM_TOKENS, **options)).said

    assert draw(1) == draw(1) != draw(2)
    assert draw(None) != draw(None)
    greedily = ask(talker, messages, clips[:1]).said
    assert draw(1, top_k=1) == draw(2, top_p=1e-6) == greedily


def test_an_answer_ends_at_eos_a_stop_or_its_length(tiny, processor, talker, clips):
    messages = [user(VIDEO, "What colour is the shape?")]
    whole = ask(talker, messages, clips[:1])
    assert whole.finish == "length" and len(whole.said) == NUM_TOKENS
    stop = whole.text[len(whole.text) // 2 :][:2]
    stopped = ask(talker, messages, clips[:1], Sampling(max_tokens=NUM_TOKENS, stop=(stop,)))
    assert (stopped.finish, stopped.text) == ("stop", whole.text[: whole.text.index(stop)].rstrip())
    ending = talker_of(tiny, processor, [])
    ending.ends = {whole.said[4]}
    ended = ask(ending, messages, clips[:1])
    assert (ended.finish, ended.said) == ("stop", whole.said[: whole.said.index(whole.said[4]) + 1])


def test_a_conversation_that_is_too_long_is_refused_before_anything_is_decoded(tiny, processor, clips, decoded):
    talker = talker_of(tiny, processor, decoded, max_context=200)
    with pytest.raises(TooLong, match=r"has 273 tokens or more, and the model takes 200"):
        talker.prompt([user(VIDEO, VIDEO, "Compare these")], clips[:2])
    with pytest.raises(TooLong, match="tokens or more"):
        talker.prompt([user("how " * 500_000)], [])
    messages = [user(VIDEO, "What? " * 10)]
    reply = ask(talker, messages, clips[:1], Sampling(max_tokens=1000))
    assert len(reply.prompt.ids) + len(reply.said) == 200 and reply.finish == "length"
    assert len(decoded) == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [("<video> again", "special token '<video>'"), ("bye </s>", "special token '</s>'"), ("\ud83d", "half of a char")],
)
def test_words_that_a_model_must_not_be_told_are_refused(talker, words, reason):
    with pytest.raises(UserError, match=reason):
        talker.prompt([user(words)], [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (-0.1, 2.5, float("nan"), True, "1")),
        *(("top_p", value) for value in (0, 1.1)),
        *(("max_tokens", value) for value in (0, 1.5, -1)),
        *(("seed", value) for value in (2**63, 0.5)),
        *(("stop", value) for value in (("",), ("a",) * 5, ("a" * 300,))),
        ("top_k", -1),
    ],
)
def test_options_that_no_words_can_be_chosen_by_are_named(name, value):
    with pytest.raises(SettingError, match=rf"^{name}: must be"):
        Sampling(**{name: value})


def test_an_adapter_is_talked_to(model_folder, processor, clips):
    adapted = random_adapter(model_folder).eval()
    adapted.get_base_model().generation_config = greedy(processor.tokenizer)
    talker = talker_of(adapted, processor, [])
    for words in ("What colour is the shape?", "Which way does it move?"):
        reply = ask(talker, [user(VIDEO, words)], clips[:1])
        expect(talker, reply)
    assert reply.num_kept


def test_a_base_is_asked_beside_its_adapter_and_shares_nothing_with_it(model_folder, processor, clips):
    adapted = random_adapter(model_folder).eval()
    adapted.get_base_model().generation_config = greedy(processor.tokenizer)
    talker = talker_of(adapted, processor, [])
    said = {}
    for words in ("What colour is the shape?", "Which way does it move?"):
        for is_base in (False, True):
            prompt = talker.prompt([user(VIDEO, words)], clips[:1], is_base=is_base)
            reply = talker.reply(prompt, clips[:1], Sampling(max_tokens=NUM_TOKENS))
            list(reply)
            with talker.asked(prompt):
                assert reply.said == generated(talker, reply)
            said[words, is_base] = reply.said, reply.num_kept > 0
    first, second = ("What colour is the shape?", "Which way does it move?")
    assert said[first, False][0] != said[first, True][0]
    assert [said[words, is_base][1] for words in (first, second) for is_base in (False, True)] == [False] * 2 + [
        True
    ] * 2
    assert (
        len(talker.store) == 2
        and not adapted.base_model.model.model.language_model.layers[0].mlp.up_proj.disable_adapters
    )


def test_a_model_that_generate_must_ask_is_asked_by_it(processor, clips, caplog):
    """A decoder that caps its scores: nothing is kept, and all else is the same."""
    model = build_model(build_config("tiny", processor.tokenizer)).eval()
    model.generation_config = greedy(processor.tokenizer)
    model.config.get_text_config().attn_logit_softcapping = 30.0
    talker = talker_of(model, processor, [])
    for _ in range(2):
        reply = ask(talker, [user(VIDEO, "What colour is the shape?")], clips[:1])
        assert reply.num_kept == 0 and talker.store.num_bytes == 0
        expect(talker, reply)
    drawn = [ask(talker, [user("Hello")], [], Sampling(1.5, seed=seed, max_tokens=8)).said for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
