"""One mask of dropout for adapters that read the same states: LoRA's own equations, computed a second way."""

from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import linear, silu
from transformers import LlamaConfig, LlamaForCausalLM

from data.packing.layout import RowLayout, packed_inputs
from train.model.attention import SHARED_PREFIX
from train.model.last_layer import run_last_layer_on_suffixes
from train.model.shared_dropout import SharedDropout, share_dropout

WIDTH, P = 16, 0.5


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))

    def forward(self, x):
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


def adapted(**settings):
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=P, target_modules="all-linear", init_lora_weights=False)
    for name, value in settings.items():
        setattr(config, name, value)
    return get_peft_model(Mlp(), config).train()


def calls(model):
    """Count how often dropout is drawn in one pass."""
    drawn = Counter()
    original = nn.Dropout.forward

    def counted(module, x):
        drawn["dropouts"] += 1
        return original(module, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Dropout, "forward", counted)
        model(torch.randn(3, WIDTH))
    return drawn["dropouts"]


def test_dropout_is_drawn_once_for_gate_and_up():
    model = adapted()
    assert calls(model) == 3
    share_dropout(model)
    assert calls(model) == 2


def by_hand(model, x):
    """LoRA as its paper writes it, with one mask for gate and up, drawn in the order of the layers."""
    layers = model.get_base_model()

    def layer(name, states, dropped):
        one = getattr(layers, name)
        low = linear(dropped, one.lora_A["default"].weight)
        return linear(states, one.base_layer.weight) + 2 * linear(low, one.lora_B["default"].weight)

    dropped = nn.functional.dropout(x, P)
    middle = silu(layer("gate_proj", x, dropped)) * layer("up_proj", x, dropped)
    return layer("down_proj", middle, nn.functional.dropout(middle, P))


def gradients(model, output):
    model.zero_grad()
    output.square().sum().backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.requires_grad])


@pytest.mark.parametrize("recomputes", [False, True])
def test_gradients_are_those_of_the_equations(recomputes):
    model = adapted()
    share_dropout(model)
    x = torch.randn(5, WIDTH, requires_grad=True)
    torch.manual_seed(1)
    forward = model if not recomputes else lambda x: torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
    ours = gradients(model, forward(x))
    torch.manual_seed(1)
    torch.testing.assert_close(ours, gradients(model, by_hand(model, x)))


def test_each_pass_draws_anew_and_keeps_nothing():
    model = adapted()
    share_dropout(model)
    x = torch.randn(5, WIDTH)
    assert not torch.equal(model(x), model(x))
    shared = model.get_base_model().gate_proj.lora_dropout["default"]
    assert shared is model.get_base_model().up_proj.lora_dropout["default"]
    assert shared._input is shared._output is None
    model.eval()
    assert torch.equal(model(x), model(x))


def test_the_last_layer_draws_for_queries_apart_and_keeps_nothing():
    """Its queries are those of suffixes alone."""
    sizes = {"vocab_size": 20, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)
    config._attn_implementation = SHARED_PREFIX
    model = LlamaForCausalLM(config)
    adapter = LoraConfig(r=4, lora_dropout=P, target_modules="all-linear")
    model = get_peft_model(model, adapter).train()
    run_last_layer_on_suffixes(model)
    share_dropout(model)
    model(input_ids=torch.arange(9)[None], **packed_inputs(RowLayout(((4, (2, 3)),))))
    attentions = [layer.self_attn for layer in model.get_base_model().model.layers]
    drawing = [[getattr(each, f"{name}_proj").lora_dropout["default"] for name in "qkv"] for each in attentions]
    assert [len(set(map(id, dropouts))) for dropouts in drawing] == [1, 2]
    shared = [module for module in model.modules() if isinstance(module, SharedDropout)]
    assert len(shared) == 4 and all(each._input is each._output is None for each in shared)


def test_another_tensor_is_dropped_by_itself():
    shared = SharedDropout(P, 2)
    x = torch.ones(1000)
    first, second = shared(x), shared(x.clone())
    assert not torch.equal(first, second)
    assert shared(x) is not first


def test_layers_without_dropout_stay():
    model = adapted(lora_dropout=0.0)
    share_dropout(model)
    assert not any(isinstance(module, SharedDropout) for module in model.modules())


def test_without_the_gate_up_keeps_its_own():
    model = adapted(target_modules=["up_proj", "down_proj"])
    share_dropout(model)
    assert not any(isinstance(module, SharedDropout) for module in model.modules())
