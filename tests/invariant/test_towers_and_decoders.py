"""Every tower with every decoder: packed = separate; each part answers in the whole as it does by itself."""

import json
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from data.batches.collator import PaddedCollator, RowCollator
from data.batches.pixels import PixelLoader
from data.media.reference import Media
from data.packing.dataset import shared_prefix_rows, single_sample_rows
from data.processor import complete_processor, measure_visual_tokens
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from data.video_llava import image_key, is_used
from tests.tiny_data import turns
from tests.tiny_parts import DECODERS, EXTRA_TOKENS, TOWERS, write_all
from train.loop.loss import labelled_positions, token_loss
from train.loop.ready_features import replace_towers
from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED
from train.model.empty_towers import accept_empty_batches
from train.model.last_layer import run_last_layer_on_suffixes
from train.model.pretrained_parts import model_from_parts

NUM_FRAMES = 2
RECORDS = [
    {"video": "clip0.mp4", "conversations": turns("<video>\nWhat colour is the shape?", "red")},
    {"video": "clip0.mp4", "conversations": turns("<video>\nWhich way?", "to the right", "How?", "fine thanks")},
    {"video": "clip0.mp4", "conversations": turns("<video>\nHello", "blue")},
    {"image": "picture0.png", "conversations": turns("<image>\nDescribe the picture.", "a small square")},
    {"image": "picture0.png", "conversations": turns("<image>\nWhich way?", "up")},
    {"conversations": turns("Hello, how are you?", "fine thanks")},
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return write_all(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def data_file(media_folder, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "train.json"
    file.write_text(json.dumps(RECORDS))
    return file


def gradient_of(model, batches, num_items) -> tuple[float, torch.Tensor]:
    """Return the loss over all batches, and its gradient."""
    total = 0.0
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "counts", "names")}
        positions, targets = labelled_positions(batch["labels"])
        loss = token_loss(model(**inputs, logits_to_keep=positions).logits, targets, num_items)
        loss.backward()
        total += loss.item()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradient = torch.cat([parameter.grad.flatten() for parameter in trained])
    model.zero_grad()
    return total, gradient


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("tower", TOWERS)
def test_packed_rows_are_separate_samples(tower, decoder, parts, data_file, media_folder):
    model, processor, _ = model_from_parts(str(parts / tower), str(parts / decoder), torch.float32)
    assert complete_processor(processor, model.config) == []  # it fits its model as it is
    visual_tokens = measure_visual_tokens(processor, NUM_FRAMES)
    extra = EXTRA_TOKENS[tower]
    assert (visual_tokens.image, visual_tokens.video) == (16 + extra - (extra > 0), 2 * (16 + extra))
    samples = load_corpus([Source(data_file, media_root=media_folder)], processor.tokenizer, visual_tokens, 512).samples
    separate = single_sample_rows(samples, visual_tokens, seed=0)
    packed = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, 8, 1024, seed=0)
    assert len(samples) == len(RECORDS) and len(packed) < 4
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("tower" not in name)
    model.train()

    collate = PaddedCollator(processor, visual_tokens)
    batches = [collate([separate[[index]]]) for index in range(len(samples))]
    num_items = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    loss, gradient = gradient_of(model, batches, num_items)

    run_last_layer_on_suffixes(model)
    collate_rows = RowCollator(processor, visual_tokens)
    rows = [collate_rows([packed[plan]]) for plan in packed.rows(epoch=0)]
    for attention in (SHARED_PREFIX, SHARED_PREFIX_UNMASKED):
        model.set_attn_implementation({"text_config": attention})
        ours, found = gradient_of(model, rows, num_items)
        assert ours == pytest.approx(loss, rel=1e-5)
        assert (found - gradient).norm() <= 2e-5 * gradient.norm()


@pytest.mark.parametrize("layer", [-2, [0, -3], -1])
@pytest.mark.parametrize("tower", TOWERS)
def test_what_the_loss_depends_on_is_known(tower, layer, parts):
    """DDP would wait for ever for a gradient that never comes."""
    model, processor, _ = model_from_parts(str(parts / tower), str(parts / "llama"), torch.float32)
    model.config.vision_feature_layer = layer
    pixels = PixelLoader(processor, NUM_FRAMES).empty(["image"])[image_key()]
    for part in (model.model.image_tower, model.model.video_tower):
        states = part(torch.zeros(1, *pixels.shape[1:]), output_hidden_states=True, return_dict=True).hidden_states
        sum(states[each].square().sum() for each in ([layer] if isinstance(layer, int) else layer)).backward()
    names = [name for name, _ in model.named_parameters() if "_tower." in name]
    reached = [name for name in names if model.get_parameter(name).grad is not None]
    assert [name for name in names if is_used(name, model.config)] == reached
    assert len(reached) < len(names)


@pytest.mark.parametrize("tower", TOWERS)
def test_features_are_made_ready_and_batches_may_be_empty(tower, parts, media_folder, tmp_path):
    model, processor, _ = model_from_parts(str(parts / tower), str(parts / "qwen2"), torch.float32)
    model.requires_grad_(False)
    pixels = PixelLoader(processor, NUM_FRAMES)
    media = [Media("video", str(media_folder / "clip0.mp4")), Media("image", str(media_folder / "picture0.png"))]

    def projected(inputs: dict) -> list[torch.Tensor]:
        return [
            model.get_image_features(inputs[image_key()], return_dict=True).pooler_output,
            model.model.get_video_features(inputs["pixel_values_videos"], return_dict=True).pooler_output,
        ]

    expected = projected(pixels(media))
    accept_empty_batches(model)
    nothing = projected(pixels.empty(["image", "video"]))
    assert [tuple(each.shape) for each in nothing] == [(0, *each.shape[1:]) for each in expected]
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True)
    load = replace_towers(model, pixels, str(tmp_path / "features"), media, args)
    for found, wanted in zip(projected(load(media)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
