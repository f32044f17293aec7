import json
import math
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor

from data.batches.pixels import PixelLoader
from data.errors import UserError
from data.media.reference import Media
from data.tokens.encoding import encode_prompt
from data.video_llava import SERVED_AS_TRAINED
from tests.tiny_adapters import save_adapter
from train.merging import writing
from train.merging.merge import MergeOptions, merge_adapter
from train.model.build import build_config, build_model
from train.recipe.yaml_text import to_yaml

# A layer whose sum is also made by hand.
LAYER = "model.language_model.layers.1.mlp.down_proj"


@pytest.fixture
def inputs(processor, visual_tokens, media_folder):
    parts = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What colour is the shape?"}]
    ids = encode_prompt([{"role": "user", "content": parts}], processor.tokenizer, visual_tokens)
    media = [Media("image", str(media_folder / "picture0.png")), Media("video", str(media_folder / "clip0.mp4"))]
    tokens = torch.tensor([ids.tolist()])
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), **PixelLoader(processor, 8)(media)}


def logits(model, inputs):
    with torch.inference_mode():
        return model.eval()(**inputs).logits


def sum_by_hand(base, adapter, scale):
    """W + scale B A of LAYER, float32."""
    weights = load_file(adapter / "adapter_model.safetensors")
    a, b = (weights[f"base_model.model.{LAYER}.lora_{part}.weight"] for part in "AB")
    return load_file(base / "model.safetensors")[_name_in_file(base)] + scale * (b @ a)


def _name_in_file(folder):
    """Saved names differ from those of the modules; LAYER's weight is the only one that ends so."""
    end = LAYER.split("language_model.")[1] + ".weight"
    (name,) = [name for name in load_file(folder / "model.safetensors") if name.endswith(end)]
    return name


def test_merging_needs_no_peft_to_load_and_answers_as_the_adapter(model_folder, inputs, tmp_path):
    cases = {
        "lora": {},
        "dora": {"use_dora": True},
        "rslora": {"use_rslora": True},
        "projector": {"modules_to_save": ["multi_modal_projector"]},
    }
    base = VideoLlavaForConditionalGeneration.from_pretrained(model_folder)
    for name, settings in cases.items():
        adapter = save_adapter(model_folder, tmp_path / name, **settings)
        merge_adapter(str(adapter), tmp_path / f"{name}-merged")
        merged = logits(VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / f"{name}-merged"), inputs)
        fresh = VideoLlavaForConditionalGeneration.from_pretrained(model_folder)
        wanted = logits(PeftModel.from_pretrained(fresh, adapter), inputs)
        torch.testing.assert_close(merged, wanted, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
        assert (merged - logits(base, inputs)).abs().max() > 0.1, name


@pytest.mark.parametrize(("settings", "scale"), [({}, 8 / 4), ({"use_rslora": True}, 8 / math.sqrt(4))])
def test_weights_are_the_sum(model_folder, tmp_path, settings, scale):
    adapter = save_adapter(model_folder, tmp_path / "adapter", **settings)
    merge_adapter(str(adapter), tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    torch.testing.assert_close(merged[_name_in_file(tmp_path / "merged")], sum_by_hand(model_folder, adapter, scale))


def test_an_adapter_of_a_4_bit_base_is_merged_into_the_full_one(model_folder, processor, inputs, tmp_path):
    adapter = save_adapter(model_folder, tmp_path / "adapter", quantization="nf4")
    processor.save_pretrained(adapter)
    recipe = to_yaml({"model": {"quantization": "nf4"}, "data": {"num_frames": 4}})
    (adapter / "recipe.yaml").write_text(recipe)
    lines = []
    merge_adapter(str(adapter), tmp_path / "merged", report=lines.append)
    assert "trained on a base in nf4, which cannot hold the sum: merged into full precision" in lines
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    torch.testing.assert_close(merged[_name_in_file(tmp_path / "merged")], sum_by_hand(model_folder, adapter, 2))
    assert (tmp_path / "merged" / "recipe.yaml").read_text() == recipe
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_bfloat16_is_rounded_once_from_the_float32_sum(model_folder, tmp_path):
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    merge_adapter(str(adapter), tmp_path / "merged", MergeOptions(dtype="bfloat16"))
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}
    wanted = sum_by_hand(model_folder, adapter, 2).bfloat16()
    differing = (merged[_name_in_file(tmp_path / "merged")] != wanted).float().mean()
    assert differing < 1e-3  # another order of the float32 sum; with rounded summands it would be far more


def test_the_folder_is_complete(model_folder, processor, tmp_path):
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    merge_adapter(str(adapter), tmp_path / "merged")
    settings = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert (settings["eos_token_id"], settings["pad_token_id"], settings["do_sample"]) == (2, 3, False)
    loaded = VideoLlavaProcessor.from_pretrained(tmp_path / "merged")
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert loaded.chat_template == SERVED_AS_TRAINED + processor.chat_template
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged"]


def test_base_can_be_given(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "base")
    adapter = save_adapter(tmp_path / "base", tmp_path / "adapter")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"base model of this adapter is missing \('.*base' is not here\)"):
        merge_adapter(str(adapter), tmp_path / "merged")
    merge_adapter(str(adapter), tmp_path / "merged", MergeOptions(base=str(tmp_path / "moved")))
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_what_cannot_be_merged_is_said_and_leaves_nothing(model_folder, processor, tmp_path, monkeypatch):
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    unfinished, damaged, broken, full = (tmp_path / name for name in ("unfinished", "damaged", "broken", "full"))
    (unfinished / "checkpoint-40").mkdir(parents=True)
    full.mkdir()
    (full / "note.txt").write_text("mine")
    for folder in (damaged, broken):
        shutil.copytree(adapter, folder)
    weights = load_file(adapter / "adapter_model.safetensors")
    first = min(weights)
    save_file({**weights, first: weights[first] * math.nan}, broken / "adapter_model.safetensors")
    (damaged / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes()[:-100])
    small = build_config("tiny", processor.tokenizer)
    small.text_config.num_hidden_layers = 1
    build_model(small).save_pretrained(tmp_path / "small")
    processor.save_pretrained(tmp_path / "small")
    before = sorted(tmp_path.iterdir())

    for source, out, base, words in [
        (model_folder, "merged", None, "is a full model, not an adapter"),
        (unfinished, "merged", None, "an unfinished run; its checkpoints can be used, such as .*checkpoint-40"),
        (full, "merged", None, "a folder with note.txt"),
        (tmp_path / "nowhere", "merged", None, "no such folder"),
        (full / "note.txt", "merged", None, "a file, not a folder"),
        (damaged, "merged", None, "adapter_model.safetensors is damaged"),
        (broken, "merged", None, "NaN"),
        (adapter, "full", None, "full exists already; give a new folder"),
        (adapter, "full/note.txt", None, "note.txt exists already"),
        (adapter, "full/note.txt/merged", None, "cannot write .*merged"),
        (adapter, "merged", tmp_path / "small", "14 of its matrices have no place"),
    ]:
        with pytest.raises(UserError, match=words):
            merge_adapter(str(source), tmp_path / out, MergeOptions(base=base and str(base)))
    read = writing.read_digests
    monkeypatch.setattr(writing, "read_digests", lambda folder: {**read(folder), "a": "other bytes"})
    with pytest.raises(UserError, match="1 weights of the saved model differ when read again, such as a"):
        merge_adapter(str(adapter), tmp_path / "merged")
    assert sorted(tmp_path.iterdir()) == before
    assert (full / "note.txt").read_text() == "mine"


def test_a_merge_that_answers_otherwise_is_refused(model_folder, tmp_path, monkeypatch):
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    monkeypatch.setattr("peft.tuners.lora.layer.Linear.merge", lambda self, **settings: None)
    with pytest.raises(UserError, match=r"outputs of .*down_proj differ from the adapter's by .* \(at most 1e-04\)"):
        merge_adapter(str(adapter), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
