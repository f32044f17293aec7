"""Faults in merged models: planted while they are written, and afterwards in their files."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from data.errors import UserError
from tests.safety.kills import peak_of
from tests.tiny_adapters import keep_result, random_adapter
from train.commands.app import run
from train.merging import merge as merging
from train.merging.base import BaseWeights
from train.merging.check import check_merged
from train.merging.layout import layout_of
from train.merging.merge import MergeOptions, merge_adapter
from train.merging.references import adapt
from train.merging.sums import Sums
from train.merging.tensors import Tensors
from train.merging.writing import write_model
from train.mixing.combining import MixedWeights
from train.mixing.given import Combination
from train.model.bare import bare_model
from train.model.build import build_config
from train.model.fingerprint import FINGERPRINT
from train.model.weight_files import canonical
from train.results.artifact import open_artifact

LAYER = "layers.1.mlp.down_proj.weight"
TOWERS = ("image_tower", "video_tower")


@pytest.fixture(scope="module")
def adapter(model_folder, processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checked") / "adapter"
    return keep_result(random_adapter(model_folder), model_folder, folder, processor)


@pytest.fixture(scope="module")
def merged(adapter) -> Path:
    merge_adapter(str(adapter), adapter.parent / "merged", report=lambda line: None)
    return adapter.parent / "merged"


def other_tower(name: str) -> str:
    first, second = TOWERS
    return name.replace(first, second) if first in name else name.replace(second, first)


# name and the tensors of base and merged model -> the tensor that is wrong
Fault = Callable[[str, Callable, Callable], torch.Tensor]
FAULTS: dict[str, Fault] = {
    "twice the scale": lambda name, base, right: 2 * right(name) - base(name),
    "a layer without its adapter": lambda name, base, right: base(name) if name.endswith(LAYER) else right(name),
    "another base": lambda name, base, right: right(name) * 1.01,
    "swapped towers": lambda name, base, right: right(other_tower(name)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_writing_is_caught_before_anything_is_kept(fault, adapter, tmp_path, monkeypatch):
    class Wrong(Sums):
        def __call__(self, name: str) -> torch.Tensor:
            return FAULTS[fault](name, self.weights, super().__call__)

    monkeypatch.setattr(merging, "Sums", Wrong)
    with pytest.raises(UserError, match="merging failed, nothing was written: the merged model's logits differ from"):
        merge_adapter(str(adapter), tmp_path / "out", report=lambda line: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_files_is_caught_by_check_only(fault, model_folder, merged, tmp_path, capsys):
    shutil.copytree(merged, tmp_path / "merged")
    saved = load_file(merged / "model.safetensors")
    base = {canonical(name): tensor for name, tensor in load_file(model_folder / "model.safetensors").items()}
    wrong = {name: FAULTS[fault](name, lambda each: base[canonical(each)], saved.__getitem__) for name in saved}
    save_file(wrong, tmp_path / "merged" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="does not answer as it did when it was saved: its logits on a built-in pro"):
        check_merged(str(tmp_path / "merged"))
    assert capsys.readouterr().out == "weights: NOT the bytes that merging wrote\n"


def test_check_only_is_a_command_with_a_verdict_and_a_status(merged, adapter, tmp_path, capsys):
    run(["merge", "--check-only", str(merged)])
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "weights: the bytes that merging wrote"
    assert second.startswith("logits, computed in float32, differ from those of training by ")
    assert float(second.split(" by ")[1].split(" of ")[0]) < 1e-5 and third.startswith(f"{merged} is the model that")

    shutil.copytree(merged, tmp_path / "short")
    file = tmp_path / "short" / "model.safetensors"
    weights = load_file(file)
    save_file({name: weights[name] for name in weights if LAYER not in name}, file, metadata={"format": "pt"})
    shutil.copytree(merged, tmp_path / "one bit")
    content = bytearray((tmp_path / "one bit" / "model.safetensors").read_bytes())
    content[-4] ^= 1  # the lowest bit of a number
    (tmp_path / "one bit" / "model.safetensors").write_bytes(content)
    shutil.copytree(merged, tmp_path / "one layer")
    config = json.loads((merged / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1
    (tmp_path / "one layer" / "config.json").write_text(json.dumps(config))
    shutil.copytree(merged, tmp_path / "none")
    (tmp_path / "none" / FINGERPRINT).unlink()
    for arguments, words in [
        ([str(tmp_path / "short")], "missing keys, such as model.language_model.layers.1.mlp.down_proj.weight"),
        ([str(tmp_path / "one bit")], "check failed: its weights are not those that merging wrote"),
        ([str(tmp_path / "one layer")], "unexpected keys, such as"),
        ([str(tmp_path / "none")], "has no fingerprint.safetensors with logits: there is nothing to compare it with"),
        ([str(adapter)], "is an adapter"),
        ([str(merged), "elsewhere"], "--check-only writes nothing: leave elsewhere out"),
        ([str(merged), "--dtype", "float16"], "takes a merged model and no other option"),
    ]:
        with pytest.raises(SystemExit) as end:
            run(["merge", "--check-only", *arguments])
        assert end.value.code == 2
        error = capsys.readouterr().err.strip()
        assert words in error and "\n" not in error, error


MB = 10**6
TRAINED = r".*language_model.*\.(q_proj|down_proj)"


def cheap_weight(shape: torch.Size, is_norm: bool) -> torch.Tensor:
    """Return numbers that look random: 65,536 are drawn, and repeated."""
    if is_norm:
        return torch.ones(shape)
    drawn = torch.randn(2**16, generator=torch.Generator().manual_seed(shape.numel()))
    return drawn.repeat(-(-shape.numel() // 2**16))[: shape.numel()].reshape(shape) / shape[-1] ** 0.5


@pytest.fixture(scope="module")
def large(processor, tmp_path_factory) -> tuple[Path, list[Path]]:
    """A model of 200 MB in bfloat16 and two files, and two adapters of all its decoder's layers."""
    folder = tmp_path_factory.mktemp("large")
    config = build_config("tiny", processor.tokenizer)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.head_dim = 1024, 2816, 8, 256
    model = bare_model(config)
    layout = layout_of(model)
    write_model(
        folder / "base",
        model,
        layout,
        lambda name: cheap_weight(layout.shapes[name], "norm" in name),
        dtype=torch.bfloat16,
        max_shard_size="120MB",
        generation=GenerationConfig(),
    )
    processor.save_pretrained(folder / "base")
    adapters = [folder / "adapter", folder / "other"]
    for adapter in adapters:
        LoraConfig(r=8, target_modules=TRAINED, base_model_name_or_path=str(folder / "base")).save_pretrained(adapter)
        tensors = {}
        for name in sorted(name for name in layout.in_decoder if re.fullmatch(TRAINED, name.removesuffix(".weight"))):
            rows, columns = layout.shapes[name]
            for part, shape in (("A", (8, columns)), ("B", (rows, 8))):
                tensors[f"base_model.model.{name.removesuffix('.weight')}.lora_{part}.weight"] = 0.05 * torch.randn(
                    shape
                )
        save_file(tensors, adapter / "adapter_model.safetensors")
    return folder / "base", adapters


def test_merging_takes_the_memory_of_less_than_a_file_and_a_half(large, tmp_path):
    base, (adapter, _) = large
    given = [path.stat().st_size for path in base.glob("*.safetensors")]
    assert len(given) == 2 and 190 * MB < sum(given) < 220 * MB
    peak = peak_of(
        lambda: merge_adapter(
            str(adapter), tmp_path / "out", MergeOptions(max_shard_size="60MB"), report=lambda line: None
        )
    )
    made = [path.stat().st_size for path in (tmp_path / "out").glob("model-*.safetensors")]
    assert len(made) == 4 and sum(made) > 190 * MB
    limit = 1.5 * max(given) + (adapter / "adapter_model.safetensors").stat().st_size
    assert 10 * MB < peak < limit, f"{peak / MB:.0f} MB, limit {limit / MB:.0f} MB"


def test_the_tensors_of_a_mixture_take_no_more(large):
    """Make a layer by the method that takes the most; models run one layer at a time as above."""
    base, adapters = large
    artifact = open_artifact(str(adapters[0]))
    layout = layout_of(bare_model(artifact.config))
    weights = BaseWeights(Tensors(str(base)), layout, torch.bfloat16)

    def make_all():
        sums = [(Sums(adapt(open_artifact(str(each)), []), weights, layout), 0.5) for each in adapters]
        mixture = MixedWeights(weights, sums, layout, Combination("dare_ties", 0.5, 0))
        assert all(mixture(name).isfinite().all() for name in layout.shapes if ".layers.1." in name)

    peak = peak_of(make_all)
    sizes = [path.stat().st_size for folder in (base, *adapters) for path in folder.glob("*.safetensors")]
    limit = 1.5 * max(sizes) + sum(size for size in sizes if size < 10 * MB)
    assert 10 * MB < peak < limit, f"{peak / MB:.0f} MB, limit {limit / MB:.0f} MB"
