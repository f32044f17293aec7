"""scripts/new_model.py: random models, and models from a CLIP and a LLaMA-like checkpoint."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    VideoLlavaForConditionalGeneration,
)

from data.processor import set_up_processor
from tests.tiny_data import WORDS

SCRIPT = Path(__file__).parents[2] / "scripts" / "new_model.py"
VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture
def new_model(monkeypatch):
    def run(*arguments) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            return end.code
        return 0

    return run


@pytest.fixture
def vision(tmp_path) -> Path:
    """A whole CLIP, text half and all, of odd geometry: 16 patches a picture, 17 tokens a frame."""
    torch.manual_seed(1)
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION)).save_pretrained(tmp_path / "vision")
    return tmp_path / "vision"


@pytest.fixture
def text(tmp_path) -> Path:
    """A LLaMA whose tokenizer knows neither pictures nor clips nor padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "text")
    fast.save_pretrained(tmp_path / "text")
    return tmp_path / "text"


def test_random_model_is_whole_and_its_processor_fits(new_model, tmp_path):
    assert new_model("--out", tmp_path / "model", "--shape", "tiny") == 0
    _, visual_tokens, notices = set_up_processor(str(tmp_path / "model"), num_frames=8)
    assert (visual_tokens.image, visual_tokens.video, notices) == (16, 136, [])
    _, loading = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]


def test_seed_and_dtype_decide_the_weights(new_model, tmp_path):
    weights = {}
    for name, options in {"a": [], "b": [], "c": ["--seed", 1], "d": ["--dtype", "bfloat16"]}.items():
        assert new_model("--out", tmp_path / name, "--shape", "tiny", *options) == 0
        weights[name] = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / name).lm_head.weight
    assert torch.equal(weights["a"], weights["b"])
    assert not torch.equal(weights["a"], weights["c"])
    assert weights["a"].dtype == torch.float32 and weights["d"].dtype == torch.bfloat16


def test_parts_keep_their_weights(new_model, tmp_path, vision, text):
    assert new_model("--out", tmp_path / "model", "--vision", vision, "--text", text) == 0
    model = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "model")
    tower, decoder = CLIPVisionModel.from_pretrained(vision), LlamaForCausalLM.from_pretrained(text)
    for part in (model.model.image_tower, model.model.video_tower):
        assert_same_weights(part, tower)
    num_old = decoder.config.vocab_size
    for module, old in [
        (model.model.language_model.embed_tokens, decoder.model.embed_tokens),
        (model.lm_head, decoder.lm_head),
    ]:
        assert torch.equal(module.weight[:num_old], old.weight)
        assert module.weight.shape == (num_old + 3, 64)  # <image>, <video>, <pad>
    assert_same_weights(model.model.language_model.layers, decoder.model.layers)


def assert_same_weights(module: torch.nn.Module, other: torch.nn.Module) -> None:
    weights, others = module.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_model_of_parts_reads_pictures_and_clips(new_model, tmp_path, vision, text):
    assert new_model("--out", tmp_path / "model", "--vision", vision, "--text", text) == 0
    processor, visual_tokens, notices = set_up_processor(str(tmp_path / "model"), num_frames=4)
    assert (visual_tokens.image, visual_tokens.video, notices) == (16, 68, [])
    model = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert model.config.text_config.pad_token_id == processor.tokenizer.convert_tokens_to_ids("<pad>")
    inputs = processor(
        text="USER: <video>\n<image>\nWhat? ASSISTANT:",
        videos=[torch.randint(0, 256, (4, 3, 40, 50), dtype=torch.uint8)],
        images=[torch.randint(0, 256, (3, 50, 40), dtype=torch.uint8)],
        return_tensors="pt",
    )
    logits = model(**inputs).logits
    assert logits.shape[-1] == len(processor.tokenizer) and logits.isfinite().all()


def test_nothing_is_overwritten(new_model, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert new_model("--out", tmp_path, "--shape", "tiny") == 2
    assert "there is a model already" in capsys.readouterr().err


def test_swapped_parts_are_named(new_model, tmp_path, capsys, vision, text):
    assert new_model("--out", tmp_path / "model", "--vision", text, "--text", vision) == 2
    assert "--vision" in (error := capsys.readouterr().err) and "'llama'" in error
    assert error.splitlines()[-1].startswith("error: ") and not (tmp_path / "model").exists()


@pytest.mark.parametrize("options", [[], ["--shape", "tiny", "--vision", "a", "--text", "b"], ["--vision", "a"]])
def test_either_a_shape_or_two_parts(new_model, tmp_path, options, capsys):
    assert new_model("--out", tmp_path / "model", *options) == 2
    assert "either --shape, or --vision and --text" in capsys.readouterr().err
