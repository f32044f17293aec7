"""reeltune new-model: random models, and models from vision and text checkpoints."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    VideoLlavaForConditionalGeneration,
    VideoLlavaProcessor,
)

from data.decoding.decode import decode
from data.errors import UserError
from data.media.reference import Media
from data.processor import set_up_processor
from tests.tiny_parts import CHATML, DECODERS, EXTRA_TOKENS, TOWERS, write_all, write_decoder, write_tower
from train.answering.generation import answer
from train.jobs import new_model as jobs_new_model
from train.jobs.new_model import make_model
from train.model.build import random_model
from train.model.random_weights import RandomWeights

SCRIPT = Path(__file__).parents[2] / "scripts" / "new_model.py"


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


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return write_all(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def vision(parts) -> Path:
    return parts / "clip"


@pytest.fixture
def text(parts) -> Path:
    return parts / "llama"


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


# The prompt of each decoder up to the answer; EOS ends its turn.
ALL_PROMPTS = {
    "llama": ("USER: <video>\nWhat? ASSISTANT:", "</s>"),
    "llama3": (
        "<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<video>\nWhat?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "mistral": ("[INST] <video>\nWhat? [/INST]", "</s>"),
    "qwen3": ("USER: <video>\nWhat? ASSISTANT:", "<|im_end|>"),
    **dict.fromkeys(
        ("smollm2", "qwen2"),
        (
            "<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n"
            "<|im_start|>user\n<video>\nWhat?<|im_end|>\n<|im_start|>assistant\n",
            "<|im_end|>",
        ),
    ),
}
ASKED = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]}]


@pytest.mark.parametrize(
    ("tower", "decoder"), [*((each, "smollm2") for each in TOWERS), *(("clip", each) for each in DECODERS)]
)
def test_parts_answer_as_transformers_alone_does(tower, decoder, parts, media_folder, tmp_path, capsys):
    make_model(tmp_path / "model", None, str(parts / tower), str(parts / decoder), "float32", 0)
    said = capsys.readouterr().out
    assert ("EOS <|endoftext|> -> <|im_end|>" in said) == (decoder == "qwen2")
    assert ("the decoder's chat template is not used" in said) == (decoder == "qwen3")
    plain = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert_parts_are_whole(plain, parts / tower, parts / decoder)

    processor, visual_tokens, notices = set_up_processor(str(tmp_path / "model"), num_frames=4)
    extra = EXTRA_TOKENS[tower]
    assert (visual_tokens.image, visual_tokens.video, notices) == (16 + extra - (extra > 0), 4 * (16 + extra), [])
    prompt, eos = ALL_PROMPTS[decoder]
    assert processor.apply_chat_template(ASKED, add_generation_prompt=True) == prompt
    assert (processor.tokenizer.eos_token, plain.generation_config.do_sample) == (eos, False)
    assert plain.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids(eos)

    clip = Media("video", str(media_folder / "clip0.mp4"))
    (ours,) = answer(plain, processor, [(ASKED, [clip])], num_frames=4, max_new_tokens=8)
    theirs = VideoLlavaProcessor.from_pretrained(tmp_path / "model")
    inputs = theirs(text=prompt, videos=[decode(clip, 4)], do_sample_frames=False, return_tensors="pt")
    ids = plain.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    assert theirs.decode(ids, skip_special_tokens=True).strip() == ours and ours
    assert inputs["input_ids"][0].tolist().count(processor.tokenizer.bos_token_id) == {
        "llama": 1, "llama3": 1, "mistral": 1, "smollm2": 3
    }.get(decoder, 0)  # fmt: skip


def assert_parts_are_whole(whole: VideoLlavaForConditionalGeneration, tower: Path, decoder: Path) -> None:
    """Compare every weight of a part with that of the whole, bit for bit, and the decoder's logits."""
    config = whole.config.vision_config
    weights = AutoModel.from_pretrained(tower, config=config).state_dict()
    spare = [name for name in weights if "pooler" in name]  # ViT's, which the checkpoint lacks
    for part in (whole.model.image_tower, whole.model.video_tower):
        found = part.state_dict()
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights if name not in spare)
    text = AutoModelForCausalLM.from_pretrained(decoder)
    num_old = text.config.vocab_size
    for name, weight in text.state_dict().items():
        found = whole.state_dict()[name if name.startswith("lm_head") else f"model.language_{name}"]
        assert torch.equal(found[:num_old] if "embed_tokens" in name or "lm_head" in name else found, weight)
    tied = whole.lm_head.weight is whole.model.language_model.embed_tokens.weight
    assert tied == text.config.tie_word_embeddings == whole.config.tie_word_embeddings
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(whole(input_ids=ids).logits[..., :num_old], text(input_ids=ids).logits)


@pytest.mark.parametrize("tower", TOWERS)
def test_pixels_are_those_of_the_tower(tower, parts, media_folder, tmp_path):
    make_model(tmp_path / "model", None, str(parts / tower), str(parts / "llama"), "float32", 0)
    processor, *_ = set_up_processor(str(tmp_path / "model"), num_frames=4)
    (frame,) = decode(Media("video", str(media_folder / "clip1.mp4")), 1)
    wanted = AutoImageProcessor.from_pretrained(parts / tower)(frame, return_tensors="pt")["pixel_values"][0]
    (picture,) = processor.image_processor([frame], return_tensors="pt").values()
    of_clip = processor.video_processor([frame[None]], return_tensors="pt")["pixel_values_videos"][0, 0]
    assert picture[0].shape == of_clip.shape == wanted.shape == (3, 32, 32)
    assert (picture[0] - wanted).abs().mean() < 0.02 and (of_clip - wanted).abs().mean() < 0.02


def test_embeddings_grow_in_the_decoder_s_own_steps(new_model, parts, tmp_path):
    for name, size in {"odd": 379, "even": 320}.items():
        folder = write_decoder(tmp_path / name, "llama", vocab_size=size)
        assert new_model("--out", tmp_path / f"{name}-model", "--vision", parts / "clip", "--text", folder) == 0
    processor, *_ = set_up_processor(str(tmp_path / "odd-model"), num_frames=4)
    shapes = [
        VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / f"{name}-model").lm_head.weight.shape
        for name in ("odd", "even")
    ]
    assert shapes == [(len(processor.tokenizer), 64), (448, 64)]
    assert processor.tokenizer.pad_token == "<pad>"


def test_the_projector_is_seeded(new_model, vision, text, tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert new_model("--out", tmp_path / name, "--vision", vision, "--text", text, "--seed", seed) == 0
        weights.append(VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / name).state_dict())
    equal = [[name for name in weights[0] if not torch.equal(weights[0][name], other[name])] for other in weights[1:]]
    assert equal[0] == []
    assert sorted(equal[1]) == [f"model.multi_modal_projector.linear_{number}.weight" for number in (1, 2)]


def test_another_tower_for_clips(new_model, parts, tmp_path, capsys):
    other = write_tower(tmp_path / "other", "clip", seed=5)
    options = ["--vision", parts / "clip", "--text", parts / "llama", "--video-vision"]
    assert new_model("--out", tmp_path / "model", *options, other) == 0
    whole = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "model")
    for part, folder in ((whole.model.image_tower, parts / "clip"), (whole.model.video_tower, other)):
        weights = AutoModel.from_pretrained(folder, config=whole.config.vision_config).state_dict()
        assert all(torch.equal(weight, weights[name]) for name, weight in part.state_dict().items())
    brighter = write_tower(tmp_path / "brighter", "clip", image_mean=[0.1, 0.1, 0.1])
    for unlike, key in ((parts / "siglip", "model_type"), (brighter, "image_mean")):
        assert new_model("--out", tmp_path / "no", *options, unlike) == 2
        assert "both towers" in (error := capsys.readouterr().err) and str(unlike) in error and key in error


def change(folder: Path, file: str, **values) -> Path:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def test_what_is_taken_is_named_before_a_weight_is_read(new_model, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("train.model.pretrained_parts.load_whole", None)
    copies = {name: write_decoder(tmp_path / name, "smollm2") for name in ("gemma", "remote", "quantised", "loops")}
    towers = {name: write_tower(tmp_path / name, "vit") for name in ("swin", "code", "oblong", "flipped")}
    (bare := write_tower(tmp_path / "bare", "dinov2")) / "preprocessor_config.json"
    (bare / "preprocessor_config.json").unlink()
    change(copies["gemma"], "config.json", model_type="gemma2")
    change(copies["remote"], "config.json", auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    change(copies["quantised"], "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    change(copies["loops"], "tokenizer_config.json", chat_template="{% for x in range(10**9) %}{% endfor %}")
    change(towers["swin"], "config.json", model_type="swin")
    change(towers["code"], "preprocessor_config.json", auto_map={"AutoImageProcessor": "processing.Evil"})
    change(towers["oblong"], "config.json", image_size=[32, 48])
    change(towers["flipped"], "preprocessor_config.json", size=56)
    vision, text = parts / "clip", parts / "llama"
    for of_vision, of_text, words in [
        (vision, copies["gemma"], "is a 'gemma2' model; decoders can be llama, mistral, qwen2, qwen3"),
        (vision, copies["remote"], "names code of its own (auto_map)"),
        (vision, copies["quantised"], "its weights are quantised"),
        (vision, copies["loops"], "its chat template cannot be used"),
        (towers["swin"], text, "towers can be clip, siglip, clip_vision_model, siglip_vision_model, dinov2, "),
        (towers["code"], text, "names code of its own (auto_map)"),
        (towers["oblong"], text, "Video-LLaVA's are square"),
        (towers["flipped"], text, "its crop_size must be the model's 32 pixels"),
        (bare, text, "cannot load its image processor"),
        (text, vision, "is a 'llama' model; towers can be"),
    ]:
        assert new_model("--out", tmp_path / "model", "--vision", of_vision, "--text", of_text) == 2, words
        error = capsys.readouterr().err
        assert words in error and error.splitlines()[-1].startswith("error: --"), error
        assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML.replace("<|im_end|>", "<end>"), "ends in '<end>'"),
        (CHATML.replace("message['content']", "'hello'"), "in front of an answer"),
        ("{{ messages | length }}" + CHATML, "rewrites earlier turns"),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_left_out(template, reason, parts, tmp_path, capsys):
    text = change(write_decoder(tmp_path / "text", "smollm2"), "tokenizer_config.json", chat_template=template)
    make_model(tmp_path / "model", None, str(parts / "clip"), str(text), "float32", 0)
    assert reason in capsys.readouterr().out
    processor, _, notices = set_up_processor(str(tmp_path / "model"), num_frames=4)
    assert notices == []
    assert processor.apply_chat_template(ASKED, add_generation_prompt=True) == "USER: <video>\nWhat? ASSISTANT:"


def test_nothing_is_overwritten(new_model, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert new_model("--out", tmp_path, "--shape", "tiny") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"


def test_weights_are_the_same_in_however_many_files_they_lie(tmp_path, monkeypatch):
    for name, size in (("whole", "1GB"), ("parts", "1MB")):
        monkeypatch.setattr(jobs_new_model, "SHARD_SIZE", size)
        make_model(tmp_path / name, "tiny", None, None, "bfloat16", seed=3)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) == 3
    whole, parts = (
        VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / name, dtype="auto").state_dict()
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    drawn = {hash(tensor.float().numpy().tobytes()) for tensor in whole.values() if tensor.ndim > 1}
    assert len(drawn) == sum(tensor.ndim > 1 for tensor in whole.values()), "no matrix is another one's twin"


def test_a_model_drawn_tensor_by_tensor_is_like_one_in_memory(new_model, tmp_path):
    make_model(tmp_path / "model", "tiny", None, None, "float32", seed=0)
    drawn = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "model").state_dict()
    made = random_model("tiny", torch.float32, seed=0)[0].state_dict()
    assert {name: tensor.shape for name, tensor in drawn.items()} == {name: made[name].shape for name in made}
    for name, tensor in made.items():
        spread = float(drawn[name].std()), float(tensor.std())
        if tensor.ndim > 1:
            assert spread[0] == pytest.approx(spread[1], rel=0.1), name
            assert abs(drawn[name].mean()) < spread[1] / 10, name
        elif not name.endswith("class_embedding"):
            assert torch.equal(drawn[name], tensor), name


def test_a_killed_or_failing_start_leaves_no_model(tmp_path, monkeypatch):
    def fails(self, name):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RandomWeights, "__call__", fails)
    with pytest.raises(UserError, match="cannot write .*No space left on device"):
        make_model(tmp_path / "model", "tiny", None, None, "float32", 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [[], ["--shape", "tiny", "--vision", "a", "--text", "b"], ["--vision", "a"]])
def test_either_a_shape_or_two_parts(new_model, tmp_path, options, capsys):
    assert new_model("--out", tmp_path / "model", *options) == 2
    assert "either --shape, or --vision and --text" in capsys.readouterr().err
