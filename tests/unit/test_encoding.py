from pathlib import Path

import pytest
from transformers import AutoTokenizer

from data.errors import UserError
from data.media.locate import Locator
from data.processor import complete_processor
from data.sources.conversation import parse_record
from data.tokens.encoding import encode, expand
from data.video_llava import CHAT_TEMPLATE, PLACEHOLDERS
from tests.tiny_data import WORDS, turns
from tests.tiny_parts import DECODERS, write_tokenizer
from train.model.build import build_config, build_processor, train_tokenizer


def conversation(*texts, **media):
    return parse_record({**media, "conversations": turns(*texts)}, "train.json record 7", Locator((Path("/m"),)))


def test_labels_of_two_turns_by_hand(processor, visual_tokens):
    sample = encode(
        conversation("<video>\nHow?", "red", "Hello", "up", video="v.mp4"),
        processor.tokenizer,
        visual_tokens,
        999,
    )
    tokens = processor.tokenizer.convert_ids_to_tokens(sample.input_ids)
    labelled = [token for token, label in zip(tokens, sample.labels, strict=True) if label != -100]
    assert "".join(labelled) == "▁red</s>▁up</s>"
    assert tokens[0] == "<s>" and tokens.count("<video>") == 1 and sample.num_turns_dropped == 0


def test_media_in_an_answer_are_no_labels(processor, visual_tokens):
    """ms-swift#5378: the clip's tokens were trained, 146 labels in place of 10."""
    talk = conversation("Show a card", "<video>\nHere it is", "More?", "red <image><image> up", video="v.mp4",
                        image=["i.png", "j.png"])  # fmt: skip
    sample = encode(talk, processor.tokenizer, visual_tokens, 999)
    ids, labels = expand(sample.input_ids, sample.labels, processor.tokenizer, visual_tokens)
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    labelled = [token for token, label in zip(tokens, labels, strict=True) if label != -100]
    assert "".join(labelled).replace("<0x0A>", "\n") == "▁▁\nHere▁it▁is</s>▁red▁▁▁up</s>"
    assert (tokens.count("<video>"), tokens.count("<image>"), len(sample.media)) == (136, 32, 3)
    assert labels[labels != -100].tolist() == ids[labels != -100].tolist()
    shorter = encode(talk, processor.tokenizer, visual_tokens, len(ids) - 1)
    assert shorter.num_turns_dropped == 1 and [item.kind for item in shorter.media] == ["video"]


def test_expand_by_hand(processor, visual_tokens):
    tokenizer = processor.tokenizer
    image, video = (tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<video>"))
    ids, labels = expand([1, image, 7, video], [-100, -100, 7, -100], tokenizer, visual_tokens)
    assert ids.tolist() == [1] + [image] * 16 + [7] + [video] * 136
    assert labels.tolist() == [-100] * 17 + [7] + [-100] * 136


def test_too_long_loses_whole_trailing_turns_and_never_a_visual_token(processor, visual_tokens):
    texts = ("<video>\nHow?", "red", "<image>\nWhat?", "up left", "Hello", "fine")
    talk = conversation(*texts, video="v.mp4", image="i.png")
    whole = encode(talk, processor.tokenizer, visual_tokens, 9999)
    length = len(expand(whole.input_ids, whole.labels, processor.tokenizer, visual_tokens)[0])
    for max_length in range(length, 130, -1):
        sample = encode(talk, processor.tokenizer, visual_tokens, max_length)
        if sample is None:
            assert max_length < 160  # the clip's 136 tokens and the first turn
            continue
        ids, labels = expand(sample.input_ids, sample.labels, processor.tokenizer, visual_tokens)
        assert len(ids) <= max_length
        assert ids[-1] == labels[-1] == processor.tokenizer.eos_token_id
        assert whole.input_ids[: len(sample.input_ids)] == sample.input_ids
        assert [media.kind for media in sample.media] == ["video", "image"][: 1 + (sample.num_turns_dropped < 2)]
        assert (ids == processor.image_token_id).sum() == 16 * (len(sample.media) - 1)
    assert encode(talk, processor.tokenizer, visual_tokens, 136) is None


def test_special_tokens_in_the_text_are_refused(processor, visual_tokens):
    with pytest.raises(UserError, match="train.json record 7: the text holds the special token '</s>'"):
        encode(conversation("What?", "red</s> blue"), processor.tokenizer, visual_tokens, 999)


def test_a_template_whose_prompt_ends_inside_a_token_is_refused(processor, visual_tokens):
    joined = build_processor(train_tokenizer([WORDS]), 56)
    joined.tokenizer.chat_template = CHAT_TEMPLATE.replace("' ASSISTANT:'", "' ASSISTANT: '")
    with pytest.raises(UserError, match="record 7: the tokenizer joins the end of the prompt and the answer"):
        encode(conversation("What?", "red"), joined.tokenizer, visual_tokens, 999)


def test_a_template_that_rewrites_history_is_refused(processor, visual_tokens):
    rewriting = build_processor(train_tokenizer([WORDS]), 56)
    rewriting.tokenizer.chat_template = "{{ messages | length }}" + CHAT_TEMPLATE
    with pytest.raises(UserError, match="rewrites earlier turns"):
        encode(conversation("What?", "red"), rewriting.tokenizer, visual_tokens, 999)


HUB_TEMPLATE = (  # as LanguageBind/Video-LLaVA-7B-hf has it: no EOS after an answer
    "{% for message in messages %}{{ message['role'].upper() + ': '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% for part in m['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<' + part['type'] + '>' }}{% endfor %}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_special_tokens_without_a_name_are_refused(visual_tokens, tmp_path):
    write_tokenizer(tmp_path, **DECODERS["llama3"]()[1])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(list(PLACEHOLDERS.values()), special_tokens=True)
    with pytest.raises(UserError, match=r"special token '<\|start_header_id\|>'"):
        encode(conversation("<|start_header_id|>system", "red"), tokenizer, visual_tokens, 999)


def test_a_template_without_eos_gives_way_to_the_documented_one():
    processor = build_processor(train_tokenizer([WORDS]), 56)
    processor.chat_template = HUB_TEMPLATE
    notices = complete_processor(processor, build_config("tiny", processor.tokenizer))
    assert processor.chat_template == CHAT_TEMPLATE
    assert [notice for notice in notices if "ends no answer with EOS" in notice]


def test_another_template_that_ends_answers_with_eos_is_kept(visual_tokens):
    processor = build_processor(train_tokenizer([WORDS]), 56)
    processor.chat_template = CHATML
    assert complete_processor(processor, build_config("tiny", processor.tokenizer)) == []
    assert processor.tokenizer.chat_template == CHATML
    sample = encode(conversation("What?", "red", "How?", "up"), processor.tokenizer, visual_tokens, 999)
    assert [processor.tokenizer.decode(sample.input_ids[a:b]).strip() for a, b in sample.trained] == [
        "red</s>",
        "up</s>",
    ]


def test_a_processor_without_geometry_takes_the_model_s():
    processor = build_processor(train_tokenizer([WORDS]), 56)
    processor.patch_size = processor.num_additional_image_tokens = processor.vision_feature_select_strategy = None
    notices = complete_processor(processor, build_config("tiny", processor.tokenizer))
    assert (processor.patch_size, processor.num_additional_image_tokens) == (14, 1)
    assert processor.vision_feature_select_strategy == "default"
    assert notices[0] == "processor: patch_size None -> 14 (from the model's config)" and len(notices) == 3
