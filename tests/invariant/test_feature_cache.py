"""Training on ready features is training on pixels: outputs, gradients, adapters."""

import json

import pytest
import torch
from transformers import TrainingArguments

from data.batches.pixels import PixelLoader
from data.decoding.isolated_decoder import IsolatedDecoder
from data.errors import MediaError, UserError
from data.media.reference import Media
from data.video_llava import PROJECTOR, image_key
from tests.short_run import result, write_recipe
from train.loop.ready_features import replace_towers
from train.model.adapters import add_adapter
from train.model.build import build_config, build_model
from train.model.empty_towers import accept_empty_batches
from train.sft import main


def refuse(*_):
    raise AssertionError("a decoder was called")


@pytest.fixture
def media(media_folder) -> list[Media]:
    return [
        Media("video", str(media_folder / "clip0.mp4")),
        Media("image", str(media_folder / "picture0.png")),
        Media("video", str(media_folder / "clip1.mp4"), start=0.5),
        Media("image", str(media_folder / "picture1.png")),
    ]


@pytest.fixture
def args(tmp_path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True)


def projected(model, inputs: dict) -> dict[str, torch.Tensor]:
    """Return the projector's output for pictures (N, tokens, hidden) and clips (frames, tokens, hidden)."""
    return {
        "image": model.get_image_features(inputs[image_key()], return_dict=True).pooler_output,
        "video": model.model.get_video_features(inputs["pixel_values_videos"], return_dict=True).pooler_output,
    }


@pytest.mark.parametrize("layers", [-2, [-2, 0, -1]])
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_the_model_makes_of_features_what_it_makes_of_pixels(layers, strategy, processor, media, args, tmp_path):
    config = build_config("tiny", processor.tokenizer)
    config.vision_feature_layer, config.vision_feature_select_strategy = layers, strategy
    model = build_model(config).eval().requires_grad_(False)
    pixels = PixelLoader(processor, 8)
    expected = projected(model, pixels(media))
    load = replace_towers(model, pixels, str(tmp_path / "features"), media, args)
    assert not any("tower" in name for name, _ in model.named_parameters())
    found = projected(model, load(media))
    for kind in expected:
        assert found[kind].shape == expected[kind].shape
        assert (found[kind] - expected[kind]).abs().max() <= 1e-6 * expected[kind].abs().max()
    accept_empty_batches(model)
    nothing = projected(model, load.empty(("image", "video")))
    assert {kind: (0, *values.shape[1:]) for kind, values in expected.items()} == {
        kind: tuple(values.shape) for kind, values in nothing.items()
    }


@pytest.fixture
def recipe_file(model_folder, mixed_file, tmp_path):
    training = {"max_steps": 3, "learning_rate": 1e-3, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 3}
    lora = {"dropout": 0.1, "modules_to_save": [PROJECTOR]}
    data = {"eval": [{"path": str(mixed_file)}], "rows_per_step": 2}
    return write_recipe(tmp_path, model_folder, mixed_file, lora, data, training)


def test_adapters_are_those_of_training_without_the_caches(recipe_file, tmp_path, monkeypatch, capsys):
    def run(name: str, *overrides: str) -> bytes:
        main([str(recipe_file), f"training.output_dir={tmp_path / name}", *overrides])
        return result(tmp_path / name)

    frames, features = f"data.frame_cache={tmp_path}/frames", f"data.feature_cache={tmp_path}/features"
    live = run("live", frames)
    with monkeypatch.context() as patch:
        patch.setattr(PixelLoader, "decoded", refuse)
        assert run("frames", frames, "training.dataloader_num_workers=1") == live
        filled = run("filled", frames, features)
    assert "features of 7 pictures and clips" in capsys.readouterr().out
    monkeypatch.setattr(PixelLoader, "fitted", refuse)
    assert run("again", features, "training.gradient_checkpointing=true") == filled == live
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("live", "filled")]
    ours, theirs = ([json.loads(line).get("eval_loss") for line in lines] for lines in logs)
    assert ours == theirs and any(ours)


def test_what_the_features_depend_on_is_in_the_key(model, processor, media, args, tmp_path, monkeypatch):
    def load(model):
        made = replace_towers(model.requires_grad_(False), PixelLoader(processor, 8), str(tmp_path), media[:1], args)
        (values,) = made(media[:1]).values()
        return values, len(list(tmp_path.glob("??/*")))

    config = build_config("tiny", processor.tokenizer)
    assert [load(build_model(config, seed))[1] for seed in (0, 0, 1)] == [1, 1, 2]
    config.vision_feature_layer = -1
    assert load(build_model(config))[1] == 3
    half, number = load(build_model(config).bfloat16())
    assert half.dtype == torch.bfloat16 and number == 4
    monkeypatch.setattr(processor.video_processor, "image_mean", [0.5, 0.5, 0.5])
    assert load(build_model(config))[1] == 5


def test_what_cannot_be_decoded_is_for_training_to_skip(model, processor, media, args, tmp_path):
    bad = Media("video", str(tmp_path / "bad.mp4"))
    (tmp_path / "bad.mp4").write_bytes(b"no clip at all")
    pixels = PixelLoader(processor, 8, decode=IsolatedDecoder(seconds=60))
    load = replace_towers(model.requires_grad_(False), pixels, str(tmp_path / "f"), [bad, *media], args)
    with pytest.raises(MediaError, match="bad.mp4' is damaged or not a video"):
        load.fitted(bad)
    assert len(load(media)) == 2


def test_a_changed_file_and_a_trained_tower_are_refused(model, processor, media, args, tmp_path):
    wrapped = add_adapter(model, r=4, alpha=4, dropout=0.0, target=r".*video_tower.*\.q_proj")
    with pytest.raises(UserError, match="data.feature_cache: .*video_tower is trained"):
        replace_towers(wrapped, PixelLoader(processor, 8), str(tmp_path), media, args)
    load = replace_towers(
        build_model(build_config("tiny", processor.tokenizer)).requires_grad_(False),
        PixelLoader(processor, 8), str(tmp_path), media[:2], args,
    )  # fmt: skip
    with pytest.raises(UserError, match="has no features of .*clip1.mp4': .*the same command makes them anew"):
        load(media)
    (entry, *_) = tmp_path.glob("??/*")
    entry.write_bytes(entry.read_bytes()[:-1])
    with pytest.raises(UserError, match="has no features of"):
        load(media[:2])


@pytest.mark.parametrize("folder", ["/proc/reeltune", "/dev/null/features"])
def test_a_folder_that_cannot_be_written_is_named_at_the_start(folder, model, processor, args):
    with pytest.raises(UserError, match=f"feature_cache: cannot write {folder}: .*; .*take another place, or remove"):
        replace_towers(model.requires_grad_(False), PixelLoader(processor, 8), folder, [], args)
