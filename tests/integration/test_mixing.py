"""Several adapters with weights: PEFT's own numbers, in the files of a merged model, or one line that says why not."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import VideoLlavaForConditionalGeneration

from data.errors import UserError
from data.processor import set_up_processor
from data.processor_files import save_processor
from tests.tiny_adapters import keep_result, random_adapter, strange_adapter
from train.card.mixture import MIXTURE
from train.commands.app import run
from train.merging.merge import MergeOptions, merge_adapter
from train.mixing import mix
from train.mixing.combining import MixedWeights
from train.mixing.given import Combination, Given
from train.mixing.mix import IN_PEFT, ONCE_MORE, merge_mixture
from train.model.load import load_model
from train.preprocessing.contract import PREPROCESSING, preprocessing_of, write_preprocessing
from train.recipe.recipe import Data
from train.recipe.yaml_text import to_yaml
from train.results.artifact import open_artifact
from train.results.hub import collect

Q, Q_GATE, DOWN = (rf".*language_model.*\.({names})" for names in ("q_proj", "q_proj|gate_proj", "down_proj"))
FILE = "model.safetensors"
LAYER = "model.language_model.layers.1.mlp.down_proj"  # whose sum is also made by hand
FULL_RANK = 128  # of the tiny model's layers: PEFT's SVD cuts nothing


def silent(line: str) -> None:
    pass


def scaled(model: PeftModel, scale: float) -> PeftModel:
    """Return it as another adapter: every trained tensor times `scale`."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(scale)
    return model


@pytest.fixture(scope="module")
def adapters(model_folder, tmp_path_factory) -> dict[str, Path]:
    """Adapters that differ in rank, scale, layers and kind."""
    folder = tmp_path_factory.mktemp("adapters")
    patterns = {"rank_pattern": {r".*layers\.1\..*": 2}, "alpha_pattern": {r".*layers\.2\..*": 32}}
    kinds = {
        "plain": {"target_modules": Q},
        "patterns": {"target_modules": Q_GATE, "r": 6, "use_rslora": True, **patterns},
        "dora": {"target_modules": DOWN, "use_dora": True},
        "saved": {"target_modules": Q, "modules_to_save": ["multi_modal_projector"], "bias": "all"},
        "tokens": {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [5, 7], "lm_head": [7, 9]}},
        "pissa": {"target_modules": Q, "init_lora_weights": "pissa"},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: strange_adapter(model_folder, folder / name, seed=number, **settings)
            for number, (name, settings) in enumerate(kinds.items())
        }


def mixed(adapters, weights: dict[str, float], out: Path, how: Combination | None = None, **options) -> list[str]:
    lines: list[str] = []
    given = [Given(str(adapters[name]), weight) for name, weight in weights.items()]
    merge_mixture(given, out, how or Combination(), MergeOptions(**options), report=lines.append)
    return lines


def in_files(model, folder: Path) -> dict[str, torch.Tensor]:
    model.save_pretrained(folder)
    return load_file(folder / FILE)


def peft_mixture(base: Path, adapters, weights: dict[str, float], **settings):
    """Return the model of PEFT's own `add_weighted_adapter`."""
    names = list(weights)
    model = PeftModel.from_pretrained(
        VideoLlavaForConditionalGeneration.from_pretrained(base), adapters[names[0]], adapter_name=names[0]
    )
    for name in names[1:]:
        model.load_adapter(str(adapters[name]), adapter_name=name)
    model.add_weighted_adapter(names, list(weights.values()), "mixed", **settings)
    model.set_adapter("mixed")
    return model.merge_and_unload()


def assert_close(found: dict, wanted: dict, but: float = 0.0) -> None:
    """Compare tensors; `but` is the share of numbers that may differ, of changes as large as the smallest kept one."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        far = ~torch.isclose(found[name], tensor, rtol=1e-5, atol=2e-6)
        assert far.float().mean() <= but, (name, (found[name] - tensor).abs().max())


@pytest.mark.filterwarnings("ignore")
def test_linear_is_peft_s_cat(model_folder, adapters, tmp_path):
    weights = {"plain": 0.7, "patterns": -0.3}
    lines = mixed(adapters, weights, tmp_path / "out")
    assert f"merged 2 adapters (linear); logits, computed in float32, differ from {IN_PEFT} by " in lines[-3]
    wanted = in_files(peft_mixture(model_folder, adapters, weights, combination_type="cat"), tmp_path / "wanted")
    assert_close(load_file(tmp_path / "out" / FILE), wanted)
    base = load_file(model_folder / FILE)
    assert max((wanted[name] - base[name]).abs().max() for name in base) > 1e-2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["ties", "magnitude_prune"])
def test_pruned_changes_are_those_of_peft_at_full_rank(method, model_folder, adapters, tmp_path):
    weights, density = {"plain": 0.6, "patterns": 0.5}, 0.4
    lines = mixed(adapters, weights, tmp_path / "out", Combination(method, density))
    assert f"({method}, density 0.4); logits, computed in float32, differ from {ONCE_MORE} by " in lines[-3]
    settings = {
        "combination_type": f"{method}_svd",
        "density": density,
        "svd_rank": FULL_RANK,
        "svd_full_matrices": False,
    }
    wanted = in_files(peft_mixture(model_folder, adapters, weights, **settings), tmp_path / "wanted")
    assert_close(load_file(tmp_path / "out" / FILE), wanted, but=1e-3)


def test_weights_of_one_and_none_are_the_plain_merge_bit_for_bit(adapters, tmp_path):
    merge_adapter(str(adapters["dora"]), tmp_path / "plain", report=silent)
    mixed(adapters, {"dora": 1.0}, tmp_path / "alone")
    mixed(adapters, {"plain": 0.0, "dora": 1.0}, tmp_path / "other")
    wanted = load_file(tmp_path / "plain" / FILE)
    for name in ("alone", "other"):
        found = load_file(tmp_path / name / FILE)
        assert all(torch.equal(found[tensor], wanted[tensor]) for tensor in wanted)


@pytest.mark.filterwarnings("ignore")
def test_changes_of_every_kind_add_up(model_folder, adapters, tmp_path):
    """DoRA, saved modules, biases, tokens and PiSSA: the sum of what PEFT's merge of each alone adds."""
    weights = {"dora": 0.5, "saved": 0.25, "tokens": 2.0, "pissa": -1.0}
    lines = mixed(adapters, weights, tmp_path / "out")
    assert ONCE_MORE in lines[-3]
    base = load_file(model_folder / FILE)
    wanted = {name: tensor.clone() for name, tensor in base.items()}
    for kind, weight in weights.items():
        model = VideoLlavaForConditionalGeneration.from_pretrained(model_folder)
        alone = in_files(PeftModel.from_pretrained(model, adapters[kind]).merge_and_unload(), tmp_path / kind)
        for name, tensor in wanted.items():
            tensor += weight * (alone[name] - base[name])
    assert_close(load_file(tmp_path / "out" / FILE), wanted)


def test_onto_quantised_weights(model_folder, processor, tmp_path):
    kept = {}
    for name, kind, scale in (("a", "nf4", 1.0), ("b", "nf4", -1.5), ("other", "fp4", 2.0)):
        model = scaled(random_adapter(model_folder, kind), scale)
        kept[name] = keep_result(model, model_folder, tmp_path / name, processor, quantization=kind)
    lines = mixed(kept, {"a": 0.5, "b": 0.25}, tmp_path / "out", onto="quantized")
    told = f"{kept['b']}: on the base in nf4, logits differ from those of training"
    assert any(line.startswith(told) for line in lines)
    packed = load_model(str(model_folder), quantization="nf4").get_submodule(LAYER).weight
    wanted = dequantize_4bit(packed.data, packed.quant_state)
    for name, weight in (("a", 0.5), ("b", 0.25)):
        matrices = load_file(kept[name] / "adapter_model.safetensors")
        a, b = (matrices[f"base_model.model.{LAYER}.lora_{part}.weight"] for part in "AB")
        wanted = wanted + weight * 2 * b @ a
    found = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "out").get_submodule(LAYER).weight
    torch.testing.assert_close(found, wanted)
    with pytest.raises(UserError, match="--onto quantized: .*other was trained on a base that was rounded in ano"):
        mixed(kept, {"a": 0.5, "other": 0.5}, tmp_path / "none", onto="quantized")


# name and the tensors of base and mixture -> the tensor that is wrong
FAULTS: dict[str, Callable] = {
    "another weight": lambda name, base, right: base + 1.2 * (right - base),
    "a layer without adapters": lambda name, base, right: base if "layers.1.self_attn.q_proj" in name else right,
    "another base": lambda name, base, right: right * 1.01,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_writing_is_caught_before_anything_is_kept(fault, adapters, tmp_path, monkeypatch):
    class Wrong(MixedWeights):
        def __call__(self, name: str) -> torch.Tensor:
            return FAULTS[fault](name, self.base(name), super().__call__(name))

    monkeypatch.setattr(mix, "MixedWeights", Wrong)
    with pytest.raises(UserError, match="merging failed, nothing was written: .* differ from those of PEFT with all a"):
        mixed(adapters, {"plain": 0.7, "patterns": 0.3}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory) -> Callable[..., Path]:
    """Returns a function that leaves an adapter as training does."""
    folder = tmp_path_factory.mktemp("trained")

    def leave(name: str, scale: float = 1.0, **data) -> Path:
        if (out := folder / name).exists():
            return out
        data = {"num_frames": 4, "system_prompt": "Be brief.", **data}
        processor, *_ = set_up_processor(str(model_folder), num_frames=data["num_frames"])
        keep_result(scaled(random_adapter(model_folder), scale), model_folder, out, processor)
        save_processor(processor, out)
        settings = Data(train=[{"path": f"/home/me/{name}.json"}], **data)
        write_preprocessing(out, preprocessing_of(processor, settings))
        recipe = {"model": {"name_or_path": "/home/me/base"}, "data": {"train": [{"path": f"/home/me/{name}.json"}]}}
        (out / "recipe.yaml").write_text(to_yaml(recipe))
        told = {"step": 40, "counts": {"train": {"conversations": 1000, "clips": 50}}}
        (out / "provenance.json").write_text(json.dumps(told))
        return out

    return leave


def test_the_command_keeps_what_the_mixture_was_made_of(trained, tmp_path, capsys):
    first, second, out = trained("first"), trained("second", -1.3), tmp_path / "out"
    run(["merge", f"{first}=0.7", f"{second}=0.3", str(out), "--combine", "ties", "--density", "0.5"])
    told = capsys.readouterr().out.splitlines()
    assert told[-3].startswith("merged 2 adapters (ties, density 0.5); logits, computed in float32, differ from those")
    assert told[-2] == "nobody has trained this mixture: what it answers is a question to reeltune evaluate"
    kept = json.loads((out / MIXTURE).read_text())
    assert (kept["method"], kept["density"], kept["seed"]) == ("ties", 0.5, None)
    assert [(each["name"], each["weight"], each["step"]) for each in kept["adapters"]] == [
        ("first", 0.7, 40),
        ("second", 0.3, 40),
    ]
    contract = json.loads((out / PREPROCESSING).read_text())
    assert (contract["num_frames"], contract["system_prompt"]) == (4, "Be brief.")
    artifact = open_artifact(str(out))
    assert (artifact.num_frames, artifact.system_prompt) == (4, "Be brief.")
    assert not (out / "recipe.yaml").exists() and not (out / "provenance.json").exists()
    files = collect(out, "me/mixture", "owner/base")
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model_relation == "merge" and {"lora", "merge"} <= set(card.data.tags)
    for words in ("2 LoRA adapters merged into owner/base", "| second | 0.3 | 40 | 1,000 conversations, 50 clips |",
                  "range(4)", "Be brief.", "path: first.json", "(ties, density 0.5)", "Nobody has"):  # fmt: skip
        assert words in card.content, words
    assert MIXTURE in files and "/home/me" not in card.content + files[MIXTURE].decode()
    run(["merge", "--check-only", str(out)])
    first_line, second_line, _ = capsys.readouterr().out.splitlines()
    assert first_line == "weights: the bytes that merging wrote"
    assert "differ from those that merging kept by " in second_line


def test_what_does_not_agree_is_refused_by_name(trained, model_folder, tmp_path):
    first = trained("first")
    shutil.copytree(first, tmp_path / "copy")
    changed = VideoLlavaForConditionalGeneration.from_pretrained(model_folder)
    with torch.no_grad():
        changed.get_output_embeddings().weight.mul_(1.1)
    shutil.copytree(model_folder, tmp_path / "base")
    changed.save_pretrained(tmp_path / "base")
    foreign = strange_adapter(tmp_path / "base", tmp_path / "foreign", target_modules=Q)
    for other, words in [
        (
            trained("frames", 2.0, num_frames=6),
            r"frames was trained with num_frames 6, and .*first with 4: one model cannot",
        ),
        (
            trained("prompt", 3.0, system_prompt=None),
            "prompt was trained with system_prompt None, and .*first with 'Be brief",
        ),
        (
            trained("fps", 4.0, frame_sampling="fps", frames_per_second=2.0),
            "fps was trained with frame_sampling 'fps 2', and .*first with 'uniform'",
        ),
        (tmp_path / "copy", "copy is the same adapter as .*first: the same adapter_model.safetensors"),
        (foreign, r"foreign stands on another base than .*first: .*base \(SHA-256 \w{12}\) instead of"),
        (model_folder, "is a full model, not an adapter"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            mixed({"first": first, "other": other}, {"first": 0.5, "other": 0.5}, tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
