"""However an adapter begins, what is saved of it stands on the base that everybody has."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraConfig, LoraLayer

from data.errors import UserError
from train.model.adapters import add_adapter, target_pattern
from train.model.load import load_model

RANK, ALPHA = 4, 8
KINDS = ["pissa", "pissa_niter_1", "olora", "orthogonal", "gaussian"]
IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 100]])


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits.float()


def base_weights(model) -> dict[str, torch.Tensor]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {name: layer.get_base_layer().weight.detach().clone() for name, layer in layers.items()}


def train(model, num_steps=5) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    for _ in range(num_steps):
        output = model.train()(input_ids=IDS, labels=IDS)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("quantization", [None, "nf4", "fp4", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_is_what_is_loaded(kind, quantization, model_folder, tmp_path):
    torch.manual_seed(1)
    base = load_model(str(model_folder), quantization=quantization)
    untouched = logits(base)
    model = add_adapter(base, r=RANK, alpha=ALPHA, dropout=0.0, init_lora_weights=kind)
    before = base_weights(model)
    scale = untouched.abs().max()
    assert (logits(model) - untouched).abs().max() <= (1e-1 if quantization == "int8" else 1e-4) * scale
    train(model)
    assert all(torch.equal(weight, before[name]) for name, weight in base_weights(model).items())
    trained = logits(model)
    assert (trained - untouched).abs().max() > 0.05 * scale
    model.save_pretrained(tmp_path)
    torch.manual_seed(2)  # whoever loads draws other numbers
    loaded = PeftModel.from_pretrained(load_model(str(model_folder), quantization=quantization), tmp_path)
    assert (logits(loaded) - trained).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize("setting", [{"use_rslora": True}, {"use_dora": True}])
def test_halves_have_the_scale_of_the_rank_that_was_asked_for(setting, model_folder):
    base = load_model(str(model_folder))
    untouched = logits(base)
    model = add_adapter(base, r=RANK, alpha=ALPHA, dropout=0.0, init_lora_weights="olora", **setting)
    scales = {layer.scaling["default"] for layer in model.modules() if isinstance(layer, LoraLayer)}
    (scale,) = scales
    assert scale == pytest.approx(ALPHA / RANK**0.5 if "use_rslora" in setting else ALPHA / RANK)
    assert (logits(model) - untouched).abs().max() <= 1e-4 * untouched.abs().max()


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_steps_are_those_of_peft(kind, model_folder):
    """PEFT's own form, an adapter of the asked rank on a residual, trained the same way."""
    theirs = load_model(str(model_folder))
    pattern = target_pattern(theirs, "decoder")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=pattern, r=RANK, lora_alpha=ALPHA, init_lora_weights=kind)
    theirs = get_peft_model(theirs, config)
    ours = add_adapter(load_model(str(model_folder)), r=RANK, alpha=ALPHA, dropout=0.0, init_lora_weights=kind)
    for model in (theirs, ours):
        train(model)
    assert (logits(ours) - logits(theirs)).abs().max() <= 1e-3 * logits(theirs).abs().max()


def test_a_rank_beyond_the_weights_is_refused(model_folder):
    with pytest.raises(UserError, match="lora.r: pissa takes at most 128, the rank of the smallest weight, not 129"):
        add_adapter(load_model(str(model_folder)), r=129, alpha=ALPHA, dropout=0.0, init_lora_weights="pissa")
