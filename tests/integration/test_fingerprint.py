import shutil

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from data.checkpoint_files import read_json
from data.errors import UserError
from tests.tiny_adapters import keep_result, random_adapter
from train.merging.merge import MergeOptions, merge_adapter
from train.model.build import build_config, build_model
from train.model.fingerprint import FINGERPRINT, last_logits, read_fingerprint, reference_inputs
from train.recipe.yaml_text import read_recipe
from train.results.artifact import open_artifact
from train.results.hub import collect
from train.results.loading import load


@pytest.fixture
def other_base(processor, tmp_path):
    """A base of the same shape, with other weights."""
    folder = tmp_path / "other"
    torch.manual_seed(7)
    config = build_config("tiny", processor.tokenizer)
    config.text_config.num_hidden_layers = 2
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def base(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base, processor, tmp_path):
    return keep_result(random_adapter(base), base, tmp_path / "adapter", processor)


def refused(words, *attempts):
    for attempt in attempts:
        with pytest.raises(UserError, match=words) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_logits_and_digests_are_those_of_the_trained_model(base, processor, adapter):
    kept = read_fingerprint(adapter / FINGERPRINT)
    model = random_adapter(base).train()
    torch.testing.assert_close(last_logits(model, reference_inputs(processor)), kept.logits, rtol=0, atol=0)
    assert model.training and all(module.training for module in model.modules())
    by_hand = model.eval()(**reference_inputs(processor)).logits[0, -8:]
    torch.testing.assert_close(by_hand, kept.logits, rtol=1e-5, atol=1e-6)
    assert (adapter / FINGERPRINT).stat().st_size < 10 * kept.logits.numel()
    assert (kept.dtype, kept.quantization, kept.base.commit) == ("float32", None, None)


def test_another_base_of_the_same_shape_is_refused(adapter, other_base, tmp_path):
    refused(
        "was not trained on .*other: the weights there are others .* instead of .*; give the base .* with --base ",
        lambda: load(open_artifact(str(adapter), str(other_base))),
        lambda: merge_adapter(str(adapter), tmp_path / "merged", MergeOptions(base=str(other_base))),
    )
    assert not (tmp_path / "merged").exists()
    load(open_artifact(str(adapter), str(other_base)), any_base=True)


def test_a_base_replaced_in_place_is_refused_and_a_copy_of_it_is_not(adapter, base, other_base, tmp_path):
    shutil.copytree(base, tmp_path / "copy")
    load(open_artifact(str(adapter)))
    shutil.copyfile(other_base / "model.safetensors", base / "model.safetensors")
    refused(
        "was not trained on .*base: the weights there are others",
        lambda: load(open_artifact(str(adapter))),
        lambda: merge_adapter(str(adapter), tmp_path / "merged"),
    )
    load(open_artifact(str(adapter), str(tmp_path / "copy")))
    merge_adapter(str(adapter), tmp_path / "merged", MergeOptions(base=str(tmp_path / "copy")))


def test_a_changed_scale_or_matrix_is_refused(adapter, tmp_path):
    config = (adapter / "adapter_config.json").read_text()
    (adapter / "adapter_config.json").write_text(config.replace('"lora_alpha": 8', '"lora_alpha": 16'))
    refused("adapter_config.json has other settings than training saved", lambda: load(open_artifact(str(adapter))))
    (adapter / "adapter_config.json").write_text(config)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({**weights, min(weights): weights[min(weights)] * 2}, adapter / "adapter_model.safetensors")
    refused(
        "adapter_model.safetensors is not the file that training saved",
        lambda: load(open_artifact(str(adapter))),
        lambda: merge_adapter(str(adapter), tmp_path / "merged"),
    )


def twice_the_scale(model):
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scaling = {name: 2 * value for name, value in module.scaling.items()}


def one_layer_less(model):
    (layer,) = [m for n, m in model.named_modules() if n.endswith("language_model.layers.1.mlp.down_proj")]
    layer.lora_B["default"].weight.data.zero_()


@pytest.mark.parametrize("fault", [twice_the_scale, one_layer_less])
@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_an_adapter_that_answers_otherwise_than_training_is_refused(base, processor, tmp_path, quantization, fault):
    """Every byte is right, but what loads them makes another model of it: training had the fault's counterpart."""
    trained = random_adapter(base, quantization)
    fault(trained)
    sound = random_adapter(base, quantization)
    right, wrong = (
        keep_result(sound, base, tmp_path / name, processor, quantization=quantization, answering=answering)
        for name, answering in (("right", sound), ("wrong", trained))
    )
    words = "wrong does not answer as it did when it was saved: its logits on a built-in prompt differ by"
    refused(
        words,
        lambda: load(open_artifact(str(wrong)), quantization=quantization),
        lambda: merge_adapter(str(wrong), tmp_path / "merged"),
    )
    assert not (tmp_path / "merged").exists()
    load(open_artifact(str(right)), quantization=quantization)
    merge_adapter(str(right), tmp_path / "merged")


def test_another_prompt_than_in_training_is_refused(adapter):
    template = adapter / "chat_template.jinja"
    template.write_text(template.read_text().replace("ASSISTANT:", "ASSISTANT: "))
    refused("processor makes other tokens of a prompt", lambda: load(open_artifact(str(adapter))))


def test_an_adapter_without_fingerprint_still_works_with_a_notice(adapter, tmp_path, capsys):
    (adapter / FINGERPRINT).unlink()
    load(open_artifact(str(adapter)))
    out, error = capsys.readouterr()
    notice = error.splitlines()[0]
    assert out == "" and notice.startswith("notice: ") and "adapter has no fingerprint: it was trained by" in notice
    lines = []
    merge_adapter(str(adapter), tmp_path / "merged", report=lines.append)
    assert any("has no fingerprint" in line for line in lines)


def test_a_model_that_could_not_be_run_keeps_its_digests(base, processor, other_base, tmp_path):
    folder = keep_result(random_adapter(base), base, tmp_path / "adapter", processor, can_run=False)
    assert read_fingerprint(folder / FINGERPRINT).logits is None
    load(open_artifact(str(folder)))
    lines = []
    merge_adapter(str(folder), tmp_path / "merged", report=lines.append)
    assert any(line.startswith("training could not run the whole model") for line in lines)
    refused("weights there are others", lambda: load(open_artifact(str(folder), str(other_base))))


def test_an_adapter_answers_in_the_type_of_its_training(model_folder, processor, tmp_path):
    """Its base is in float16; and merging, which keeps that, says in which type it has compared."""
    half = build_model(build_config("tiny", processor.tokenizer)).half()
    half.save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    model = random_adapter(tmp_path / "half", dtype="bfloat16")
    folder = keep_result(model, tmp_path / "half", tmp_path / "adapter", processor, dtype="bfloat16")
    artifact = open_artifact(str(folder))
    assert artifact.dtype == "float16"
    assert load(artifact)[0].dtype == torch.bfloat16
    assert load(artifact, dtype="float32")[0].dtype == torch.float32
    lines = []
    merge_adapter(str(folder), tmp_path / "merged", report=lines.append)
    told = next(line for line in lines if line.startswith("merged "))
    arithmetic = "float16" if torch.ops.mkldnn._is_mkldnn_fp16_supported() else "float32"
    assert f"logits, computed in {arithmetic}, differ from those at the end of training by" in told
    assert read_json(tmp_path / "merged" / "config.json")["dtype"] == "float16"
    assert load(open_artifact(str(tmp_path / "merged")))[0].dtype == torch.float16


def test_a_fingerprint_goes_to_the_hub_and_a_damaged_one_is_named(adapter):
    assert collect(adapter, "me/model")[FINGERPRINT] == adapter / FINGERPRINT
    assert read_recipe(adapter / "recipe.yaml")["model"]["dtype"] == "float32"
    (adapter / FINGERPRINT).write_bytes((adapter / FINGERPRINT).read_bytes()[:-10])
    refused("fingerprint.safetensors is damaged", lambda: open_artifact(str(adapter)))
