"""The whole flow on a checkpoint in the layout of the published LanguageBind/Video-LLaVA-7B-hf, from 4.41."""

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor

from data.processor import set_up_processor
from data.processor_files import CONVERSATIONS
from tests.published_layout import NUM_SHARDS, write_published_layout
from tests.short_run import result, write_recipe
from tests.tiny_data import MIXED_RECORDS
from train.model.load import load_model
from train.sft import main

SCRIPTS = Path(__file__).parents[2] / "scripts"
TRAINING = {"max_steps": 4, "save_steps": 2, "learning_rate": 1e-3, "logging_steps": 1}


@pytest.fixture(scope="module")
def weights_and_base(tmp_path_factory) -> tuple[dict[str, torch.Tensor], Path]:
    folder = tmp_path_factory.mktemp("published")
    return write_published_layout(folder), folder


@pytest.fixture(scope="module")
def base(weights_and_base) -> Path:
    return weights_and_base[1]


@pytest.fixture(scope="module")
def recipe(base, media_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "train.json").write_text(json.dumps(MIXED_RECORDS))
    sources = {"train": [{"path": str(folder / "train.json"), "media_root": str(media_folder)}]}
    return write_recipe(folder, base, folder / "train.json", {"r": 4, "alpha": 8}, sources, TRAINING)


@pytest.fixture(scope="module")
def adapter(recipe) -> Path:
    main([str(recipe)])
    return recipe.parent / "out"


@pytest.fixture
def script(monkeypatch, capsys) -> Callable[..., str]:
    """Runs a command in this process, and returns what it prints."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        try:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            assert not end.code, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def ids_of(processor: VideoLlavaProcessor) -> list[list[int]]:
    texts = ["".join(turns) for turns in CONVERSATIONS] + ["USER: <video>\nWhat? ASSISTANT: red</s> USER: <image>\na"]
    return [processor.tokenizer(text).input_ids for text in texts]


def test_the_layout_is_the_old_one(base):
    names = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(names.values())) == NUM_SHARDS
    for name in (
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
        "image_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "video_tower.vision_model.pre_layrnorm.weight",
        "multi_modal_projector.linear_2.bias",
    ):
        assert name in names
    present = {path.name for path in base.iterdir()}
    assert not present & {"processor_config.json", "chat_template.jinja", "tokenizer.json"}
    assert "patch_size" not in (base / "preprocessor_config.json").read_text()


def test_every_weight_is_loaded(weights_and_base):
    weights, base = weights_and_base
    loaded = load_model(str(base), dtype="float16").state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())


def test_the_data_are_checked(recipe, script):
    printed = script("check_data", recipe)
    assert "16 tokens a picture, 136 a clip" in printed and "all is well" in printed


def test_the_same_command_continues_to_the_same_bytes(recipe, adapter, capsys):
    whole = result(adapter)
    shutil.rmtree(adapter / "checkpoint-4")
    (adapter / "adapter_model.safetensors").unlink()
    main([str(recipe)])
    assert f"continuing from {adapter / 'checkpoint-2'}" in capsys.readouterr().out
    assert result(adapter) == whole


@pytest.mark.parametrize("place", [".", "checkpoint-2", "checkpoint-4"])
def test_the_prompt_of_training_is_that_of_answers(base, adapter, place):
    """`"legacy": true` of the base puts a blank behind each placeholder, in training and in whatever it leaves."""
    trained, *_ = set_up_processor(str(base), num_frames=8)
    blank, newline = trained.tokenizer.convert_tokens_to_ids(["▁", "<0x0A>"])
    ids = trained.tokenizer("<video>\n").input_ids
    assert ids[ids.index(trained.video_token_id) + 1 :] == [blank, newline]
    assert ids_of(VideoLlavaProcessor.from_pretrained(adapter / place)) == ids_of(trained)


def test_adapter_and_merged_model_answer_the_same(base, adapter, media_folder, recipe, script, tmp_path):
    prompt = ["--video", media_folder / "clip0.mp4", "--prompt", "What colour is the shape?", "--max-new-tokens", 6]
    answered = script("generate", adapter, *prompt, "--dtype", "float32")
    assert answered.strip()
    script("merge_adapter", adapter, tmp_path / "merged", "--dtype", "float32")
    assert script("generate", tmp_path / "merged", *prompt) == answered
    trained, *_ = set_up_processor(str(base), num_frames=8)
    assert ids_of(VideoLlavaProcessor.from_pretrained(tmp_path / "merged")) == ids_of(trained)
    _, loading = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]

    data = ["--data", recipe.parent / "train.json", "--media-root", media_folder, "--max-new-tokens", 4]
    predictions = {}
    for name, model in {"adapter": adapter, "merged": tmp_path / "merged"}.items():
        script("evaluate", model, *data, "--dtype", "float32", "--out", tmp_path / f"{name}.jsonl")
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        predictions[name] = [json.loads(line)["predicted"] for line in lines]
    assert len(predictions["adapter"]) == 17 and predictions["adapter"] == predictions["merged"]
