"""A packed row trains a whole Video-LLaVA exactly as its questions do one by one.

The separate pass is transformers' own: sdpa, every logit, torch's cross-entropy, one sample at a time.
"""

import copy
from itertools import pairwise

import peft
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaImageProcessor

from data.packing.groups import make_groups
from data.packing.layout import RowLayout, packed_inputs
from train.loop.loss import labelled_positions, token_loss
from train.model.adapters import add_adapter
from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED
from train.model.build import build_model
from train.model.last_layer import run_last_layer_on_suffixes
from train.model.load import load_model

IMAGE, VIDEO = 97, 98
VISUAL_TOKENS = {"image": [IMAGE] * 4, "video": [VIDEO] * 10}
FRAMES = 2
# transformers has renamed this argument; its own image processor knows the name.
PIXEL_NAMES = {"image": VideoLlavaImageProcessor.model_input_names[0], "video": "pixel_values_videos"}


@pytest.fixture(scope="module")
def bare_model():
    config = VideoLlavaConfig(
        text_config=LlamaConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            projection_dim=16,
        ),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_seq_length=4,
        video_seq_length=10,
    )
    return build_model(config).train()


@pytest.fixture(scope="module")
def model(bare_model):
    model = copy.deepcopy(bare_model)
    run_last_layer_on_suffixes(model)
    return model


@pytest.fixture(autouse=True)
def unchanged(model):
    yield
    model.gradient_checkpointing_disable()
    model.zero_grad()


def sample(*parts):
    """Return (ids, labels, media) of a conversation; a part is a medium, words of a prompt or ("answer", words)."""
    ids, labels, media = [1], [-100], []
    for part in parts:
        words = VISUAL_TOKENS.get(part[0])
        if words is not None:
            media.append(part)
        trained = part[0] == "answer"
        words = words or list(part[1] if trained else part)
        ids += words
        labels += words if trained else [-100] * len(words)
    return ids, labels, tuple(media)


def ask(media, *turns):
    """Return a conversation about `media`: (question, answer), (question, answer) ..."""
    parts = [part for question, answer in turns for part in (question, ("answer", answer))]
    return sample(*media, *parts)


CLIP, OTHER_CLIP, PICTURE, OTHER_PICTURE = ("video", "a"), ("video", "b"), ("image", "a"), ("image", "b")
ABOUT_CLIP = [
    ask([CLIP], ([20, 21], [30, 2])),
    ask([CLIP], ([20, 22, 23, 24], [31, 32, 33, 2])),
    ask([CLIP], ([25], [2])),
]
ABOUT_PICTURE = [ask([PICTURE], ([20, 40 + i], [30 + i] * (i + 1) + [2])) for i in range(4)]
TEXT = [ask([], ([50, 51, 52], [53, 2])), ask([], ([54], [55, 56, 2]))]
MULTI_TURN = [
    ask([OTHER_CLIP], ([60, 61], [62, 2]), ([63], [64, 65, 2])),
    ask([OTHER_CLIP], ([60, 61], [66, 2])),
    ask([OTHER_CLIP], ([67], [68, 2]), ([69], [70, 2]), ([71], [2])),
]
ONE_EACH = [
    ask([OTHER_PICTURE], ([20], [30, 2])),
    ask([PICTURE, OTHER_CLIP], ([21], [31, 2])),
    sample([80], ("answer", [81, 2]), CLIP, [82], ("answer", [83, 2])),
]
CASES = {
    "one group": ABOUT_CLIP,
    "images": ABOUT_PICTURE,
    "many groups": ABOUT_CLIP + ABOUT_PICTURE + MULTI_TURN,
    "text only": TEXT,
    "groups of one": ONE_EACH,
    "multi-turn suffixes": MULTI_TURN,
    "mixed": ABOUT_CLIP + TEXT + ABOUT_PICTURE + [ask([OTHER_PICTURE, OTHER_CLIP], ([90] * 9, [91] * 5))],
    "equal conversations": ABOUT_CLIP[:1] * 3,
}


def pixels(media):
    """Return `forward`'s pixel arguments: (N, 3, 28, 28) pictures and (N, FRAMES, 3, 28, 28) clips."""
    arguments = {}
    for kind, name in PIXEL_NAMES.items():
        chosen = [name for of_kind, name in media if of_kind == kind]
        shape = (3, 28, 28) if kind == "image" else (FRAMES, 3, 28, 28)
        generators = [torch.Generator().manual_seed(ord(file)) for file in chosen]
        if chosen:
            arguments[name] = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return arguments


def build_row(samples, groups):
    """Collate one row: return forward's arguments, and labels (1, L)."""
    ids = torch.cat([torch.as_tensor(group.lay_out([samples[i][0] for i in group.samples])) for group in groups])
    labels = torch.cat([torch.as_tensor(group.lay_out([samples[i][1] for i in group.samples])) for group in groups])
    media = [medium for group in groups for medium in samples[group.samples[0]][2]]
    layout = RowLayout(tuple(group.shape for group in groups))
    return {"input_ids": ids[None], **pixels(media), **packed_inputs(layout)}, labels[None]


def group(samples):
    ids, labels, media = zip(*samples, strict=True)
    first_labels = [next(i for i, label in enumerate(one) if label != -100) for one in labels]
    return list(make_groups(ids, first_labels, media, {IMAGE: 1, VIDEO: 1}, 32, 1000))


def num_items(samples):
    return sum(label != -100 for _, labels, _ in samples for label in labels)


def train_separately(model, samples):
    model.set_attn_implementation({"text_config": "sdpa"})
    for ids, labels, media in samples:
        logits = model(input_ids=torch.tensor([ids]), **pixels(media)).logits[0, :-1]
        loss = cross_entropy(logits.float(), torch.tensor(labels[1:]), ignore_index=-100, reduction="sum")
        (loss / num_items(samples)).backward()
        yield loss.item() / num_items(samples)


def train_packed(model, samples, rows, attention=SHARED_PREFIX):
    model.set_attn_implementation({"text_config": attention})
    for groups in rows:
        inputs, labels = build_row(samples, groups)
        positions, targets = labelled_positions(labels)
        loss = token_loss(model(**inputs, logits_to_keep=positions).logits, targets, num_items(samples))
        loss.backward()
        yield loss.item()


def take_gradient(model):
    """Return every trained parameter's gradient as one float32 vector, zero where none arrived, and reset it."""
    gradient = [
        (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten().float()
        for parameter in model.parameters()
        if parameter.requires_grad
    ]
    model.zero_grad()
    return torch.cat(gradient)


def assert_same_training(model, samples, rows, tolerance=1e-5, between=1e-6):
    """Check that rows of either attention train as separate samples, and as those of the other, to `between`."""
    expected_loss = sum(train_separately(model, samples))
    expected = take_gradient(model)
    assert expected.norm() > 0
    gradients = {}
    for attention in (SHARED_PREFIX, SHARED_PREFIX_UNMASKED):
        loss = sum(train_packed(model, samples, rows, attention))
        gradients[attention] = take_gradient(model)
        assert loss == pytest.approx(expected_loss, rel=tolerance)
        assert (gradients[attention] - expected).norm() <= tolerance * expected.norm()
    apart = (gradients[SHARED_PREFIX_UNMASKED] - gradients[SHARED_PREFIX]).norm()
    assert apart <= between * expected.norm()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("samples", CASES.values(), ids=CASES)
def test_a_row_gives_the_gradients_of_its_samples(model, samples, checkpointing):
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_training(model, samples, [group(samples)])


def test_the_cases_are_what_their_names_say():
    shapes = {name: [len(one.samples) for one in group(samples)] for name, samples in CASES.items()}
    assert shapes == {
        "one group": [3],
        "images": [4],
        "many groups": [3, 4, 3],
        "text only": [1, 1],
        "groups of one": [1, 1, 1],
        "multi-turn suffixes": [3],
        "mixed": [3, 1, 1, 4, 1],
        "equal conversations": [3],
    }


def test_rows_accumulate_to_one_step(model):
    samples = CASES["mixed"]
    groups = group(samples)
    assert_same_training(model, samples, [groups[:2], groups[2:3], groups[3:]])


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_an_adapter_on_the_decoder_gets_the_same_gradients(bare_model, use_dora):
    config = peft.LoraConfig(r=4, target_modules=r".*language_model.*_proj", use_dora=use_dora, init_lora_weights=False)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(copy.deepcopy(bare_model), config)
    run_last_layer_on_suffixes(adapted)
    adapted.gradient_checkpointing_enable({"use_reentrant": False})
    adapted.enable_input_require_grads()
    assert_same_training(adapted, CASES["mixed"], [group(CASES["mixed"])])


def test_an_adapter_on_4_bit_weights_gets_the_same_gradients(bare_model, tmp_path):
    bare_model.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), quantization="nf4", attn_implementation="flash")
    adapted = add_adapter(model, r=4, alpha=8, dropout=0.0, init_lora_weights=False).train()
    assert adapted.is_loaded_in_4bit
    run_last_layer_on_suffixes(adapted)
    assert_same_training(adapted, CASES["mixed"], [group(CASES["mixed"])])


@pytest.mark.parametrize("attention", [SHARED_PREFIX, SHARED_PREFIX_UNMASKED])
def test_the_last_layer_leaves_the_prefixes_out(model, attention):
    """Its projections and its MLP see the suffixes' tokens; keys, values and the other layer the whole row."""
    samples = CASES["mixed"]
    groups = group(samples)
    seen = {}
    handles = [
        module.register_forward_pre_hook(lambda module, args, name=name: seen.__setitem__(name, args[0].shape[1]))
        for name, module in model.named_modules()
        if name.endswith(("_proj", "mlp.gate_proj")) and "language_model" in name
    ]
    for _ in train_packed(model, samples, [groups], attention):
        pass
    for handle in handles:
        handle.remove()
    whole = sum(sum(one.suffix_lengths) + one.prefix_length for one in groups)
    suffixes = sum(sum(one.suffix_lengths) for one in groups)
    last = {name.rpartition(".")[2]: number for name, number in seen.items() if ".layers.1." in name}
    assert suffixes < 0.6 * whole
    assert last == {name: whole if name in ("k_proj", "v_proj") else suffixes for name in last}
    assert {number for name, number in seen.items() if ".layers.0." in name} == {whole}


def test_a_pass_without_a_layout_uses_the_whole_layer(model, bare_model):
    model.set_attn_implementation({"text_config": "sdpa"})
    bare_model.set_attn_implementation({"text_config": "sdpa"})
    list(train_packed(model, TEXT, [group(TEXT)]))  # nothing of a row stays behind
    model.set_attn_implementation({"text_config": "sdpa"})
    ids = torch.tensor([TEXT[0][0]])
    assert torch.equal(model(input_ids=ids).logits, bare_model(input_ids=ids).logits)


def test_bfloat16_agrees_within_its_precision(model):
    samples = CASES["mixed"]
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_training(model, samples, [group(samples)], tolerance=0.03, between=0.03)


@pytest.mark.parametrize("attention", [SHARED_PREFIX, SHARED_PREFIX_UNMASKED])
@torch.no_grad()
def test_no_question_sees_another(model, attention):
    """Each suffix is changed in turn: its own logits move, every other one of the row keeps its bits."""
    samples = CASES["many groups"]
    model.set_attn_implementation({"text_config": attention})
    inputs, _ = build_row(samples, group(samples))
    ends = [0]
    for prefix_length, suffix_lengths in inputs["row_layout"].groups:
        for length in (prefix_length, *suffix_lengths):
            ends.append(ends[-1] + length)
    before = model(**inputs).logits
    prefixes = [0, 4, 9]  # of the row's spans: prefix, 3 suffixes, prefix, 4 suffixes, prefix, 3 suffixes
    for number, (start, end) in enumerate(pairwise(ends)):
        if number in prefixes:
            continue
        changed = inputs["input_ids"].clone()
        changed[0, start:end] = (changed[0, start:end] + 1) % 90
        after = model(**{**inputs, "input_ids": changed}).logits
        assert torch.equal(after[:, :start], before[:, :start])
        assert torch.equal(after[:, end:], before[:, end:])
        assert not torch.isclose(after[:, start:end], before[:, start:end]).all(-1).any()
