"""Merging tensor by tensor: PEFT's own sums in the files that transformers writes, whatever the adapter is made of."""

import json
import shutil
import warnings
from tempfile import gettempdir

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import PeftModel
from safetensors.torch import load_file
from transformers import VideoLlavaForConditionalGeneration

from data.errors import UserError
from tests.safety.kills import files_of_at_most
from tests.tiny_adapters import keep_result, random_adapter, strange_adapter
from train.merging.merge import MergeOptions, merge_adapter
from train.model.build import build_config, build_model
from train.model.load import load_model

DOWN = "model.language_model.layers.1.mlp.down_proj"
Q, GATE = r".*language_model.*\.q_proj", r".*language_model.*\.(q_proj|gate_proj)"
# Whatever PEFT can make of these, merging makes too.
KINDS = {
    "patterns": {
        **{"target_modules": GATE, "rank_pattern": {r".*layers\.1\..*q_proj": 2}, "use_rslora": True},
        **{"alpha_pattern": {r".*layers\.2\..*gate_proj": 32}, "bias": "all"},
    },
    "dora": {"target_modules": r".*(language_model|multi_modal_projector).*\.(up_proj|linear_1)", "use_dora": True},
    "lora_bias": {"target_modules": ["linear_1", "fc1"], "lora_bias": True},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
    "saved": {"target_modules": Q, "modules_to_save": ["multi_modal_projector", "lm_head", "embed_tokens"]},
    "tokens": {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [5, 7], "lm_head": [7, 9]}},
    "parameters": {"target_modules": [], "target_parameters": ["mlp.down_proj.weight"]},
    "pissa": {"target_modules": Q, "init_lora_weights": "pissa"},
    "olora": {"target_modules": Q, "init_lora_weights": "olora"},
    "half": {"target_modules": Q, "saved_in": torch.bfloat16},
}


def silent(line):
    pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_files_are_those_that_transformers_writes_of_peft_s_own_merge(kind, model_folder, tmp_path):
    adapter = strange_adapter(model_folder, tmp_path / "adapter", **KINDS[kind])
    merge_adapter(str(adapter), tmp_path / "merged", MergeOptions(max_shard_size="700KB"), report=silent)
    base = VideoLlavaForConditionalGeneration.from_pretrained(model_folder)
    wanted = PeftModel.from_pretrained(base, adapter).merge_and_unload(safe_merge=True)
    wanted.save_pretrained(tmp_path / "wanted", max_shard_size="700KB")
    index, shards = "model.safetensors.index.json", sorted(path.name for path in tmp_path.glob("wanted/*.safetensors"))
    assert len(shards) > 4
    assert (tmp_path / "merged" / index).read_text() == (tmp_path / "wanted" / index).read_text()
    assert (tmp_path / "merged" / "config.json").read_text() == (tmp_path / "wanted" / "config.json").read_text()
    for name in shards:
        found, right = load_file(tmp_path / "merged" / name), load_file(tmp_path / "wanted" / name)
        assert found.keys() == right.keys()
        for tensor in right:
            torch.testing.assert_close(found[tensor], right[tensor], rtol=1e-6, atol=1e-6, msg=f"{kind}: {tensor}")
    assert shards == sorted(path.name for path in tmp_path.glob("merged/model*.safetensors"))
    _, loading = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]


def test_a_file_has_the_library_s_bytes(model_folder, tmp_path):
    adapter = strange_adapter(model_folder, tmp_path / "adapter", target_modules=Q)
    merge_adapter(str(adapter), tmp_path / "merged", MergeOptions(dtype="bfloat16"), report=silent)
    VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "merged").save_pretrained(tmp_path / "again")
    name = "model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_onto_quantised_weights(kind, model_folder, processor, tmp_path):
    """The sum of what 4 bits stood for in training and of the matrices has the logits of training."""
    model = random_adapter(model_folder, kind)
    adapter = keep_result(model, model_folder, tmp_path / "adapter", processor, quantization=kind)
    lines: list[str] = []
    merge_adapter(str(adapter), tmp_path / "merged", MergeOptions(onto="quantized"), report=lines.append)
    on_full = next(line for line in lines if line.startswith("on the full-precision base, logits differ from those of"))
    on_rounded = next(line for line in lines if "differ from those at the end of training by" in line)
    assert float(on_full.rpartition(" ")[2]) > 0.05
    assert float(on_rounded.rpartition(" of ")[0].rpartition(" ")[2]) < 1e-5
    packed = load_model(str(model_folder), quantization=kind).get_submodule(DOWN).weight
    matrices = load_file(adapter / "adapter_model.safetensors")
    a, b = (matrices[f"base_model.model.{DOWN}.lora_{part}.weight"] for part in "AB")
    by_hand = dequantize_4bit(packed.data, packed.quant_state) + 2 * b @ a
    merged = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged.get_submodule(DOWN).weight, by_hand)


@pytest.fixture
def tied(processor, tmp_path):
    config = build_config("tiny", processor.tokenizer)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    build_model(config).save_pretrained(tmp_path / "tied")
    processor.save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


SIZES = ("0MB", "0", "-1GB", "1B", "", "infGB", "1e400GB", "0.0000001KB")  # none of which is any


def test_what_cannot_be_merged_is_refused_by_name(model_folder, tied, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of what is refused here
        head = strange_adapter(tied, tmp_path / "head", target_modules=["lm_head"])
        plain = strange_adapter(model_folder, tmp_path / "plain", target_modules=Q)
        convolution = strange_adapter(model_folder, tmp_path / "convolution", target_modules=["patch_embedding"])
    settings = json.loads((plain / "adapter_config.json").read_text())
    shutil.copytree(plain, tmp_path / "corda")
    (tmp_path / "corda" / "adapter_config.json").write_text(json.dumps({**settings, "init_lora_weights": "corda"}))
    out = tmp_path / "out"
    for adapter, options, words in [
        (head, {}, "changes .*embed_tokens.weight and lm_head.weight in different ways, and they are one tensor"),
        (convolution, {}, "the adapter changes .*patch_embedding, a Conv2d; only linear layers can be merged"),
        (tmp_path / "corda", {}, "init_lora_weights is 'corda', which changes the base in a way that cannot be repea"),
        (plain, {"onto": "quantized"}, "--onto quantized: .*plain was trained on a base that was not quantised"),
        (plain, {"max_shard_size": "much"}, "--max-shard-size much: give a number above 0 with a unit, such as 500MB"),
        *(
            (plain, {"max_shard_size": size}, "--max-shard-size .*: give a number above 0 with a unit")
            for size in SIZES
        ),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            merge_adapter(str(adapter), out, MergeOptions(**options), report=silent)
        assert "\n" not in str(caught.value) and not out.exists()


def test_a_base_of_pickles(model_folder, tmp_path):
    adapter = strange_adapter(model_folder, tmp_path / "adapter", target_modules=Q)
    shutil.copytree(model_folder, tmp_path / "pickled")
    weights = load_file(tmp_path / "pickled" / "model.safetensors")
    torch.save(weights, tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    merge_adapter(str(adapter), tmp_path / "from", report=silent)
    merge_adapter(str(adapter), tmp_path / "from-pickles", MergeOptions(base=str(tmp_path / "pickled")), report=silent)
    name = "model.safetensors"
    assert (tmp_path / "from" / name).read_bytes() == (tmp_path / "from-pickles" / name).read_bytes()


def test_a_full_temporary_folder_is_one_line(model_folder, tmp_path):
    adapter = strange_adapter(model_folder, tmp_path / "adapter", target_modules=Q)
    with files_of_at_most(100), pytest.raises(UserError, match=f"cannot write into {gettempdir()}: .*; make room"):
        merge_adapter(str(adapter), tmp_path / "out", report=silent)
    assert not (tmp_path / "out").exists()
