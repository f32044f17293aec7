"""Recomputed layers: the bits of layers that keep everything, no attention twice, memory between all and nothing."""

from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from data.packing.layout import RowLayout, packed_inputs
from scripts.benchmarks.measure import peak_bytes
from scripts.benchmarks.quantise import quantise
from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED
from train.model.compiled import speed_up_layers
from train.model.recomputed import ATTENTION, recompute

ATTENTIONS = pytest.mark.parametrize("attention", [SHARED_PREFIX, SHARED_PREFIX_UNMASKED], ids=["sdpa", "flash"])
LAYOUT = RowLayout(((70, (5, 9, 4)), (33, (6,)), (20, (3, 3)), (12, ())))
NUM_LAYERS, HIDDEN = 3, 64
SETTINGS = {
    "full": None,
    "lora": {"lora_dropout": 0.5},
    "dora": {"lora_dropout": 0.5, "use_dora": True},
    "nf4": {"lora_dropout": 0.5},
}


def trained(kind: str, attention: str, recomputation: str):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config._attn_implementation = attention
    model = LlamaForCausalLM(config)
    if kind == "nf4":
        quantise(model.model.layers)
    if SETTINGS[kind] is not None:
        adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **SETTINGS[kind])
        model = get_peft_model(model.requires_grad_(False), adapter)
    speed_up_layers(model.train(), None, recomputes=recomputation != "none")
    if recomputation != "none":
        recompute(model, recomputation == "selective")
    return model


def step(model, layout: RowLayout = LAYOUT, backward=lambda loss: loss.backward()) -> torch.Tensor:
    torch.manual_seed(1)  # dropout
    ids = torch.arange(sum(layout.group_lengths))[None] % 50
    inputs = packed_inputs(layout)
    logits = model(input_ids=ids, **inputs).logits[:, inputs["suffix_positions"]]
    model.zero_grad()
    backward(logits.square().sum())
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.requires_grad])


class Seen(TorchDispatchMode):
    """Counts operations by name."""

    def __enter__(self):
        self.counts = Counter()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


@ATTENTIONS
@pytest.mark.parametrize("kind", SETTINGS)
def test_gradients_have_the_bits_of_layers_that_keep_everything(kind, attention):
    wanted = step(trained(kind, attention, "none"))
    assert wanted.abs().sum() > 0
    for recomputation in ("selective", "full"):
        model = trained(kind, attention, recomputation)
        for _ in range(2):  # nothing of the first step is left in the second
            assert torch.equal(step(model), wanted)


@ATTENTIONS
def test_attention_and_narrow_products_run_once(attention):
    again = {}
    for recomputation in ("none", "selective", "full"):

        def backward(loss, name=recomputation):
            with Seen() as seen:
                loss.backward()
            again[name] = seen.counts

        step(trained("lora", attention, recomputation), backward=backward)
    times = {name: sum(counts[each] for each in ATTENTION) for name, counts in again.items()}
    assert times["none"] == times["selective"] == 0 and times["full"] >= NUM_LAYERS
    # A layer has seven weights, of which gate and up give wide products, and seven adapters, whose first is narrow.
    products = {name: counts["aten::mm"] for name, counts in again.items()}
    assert products["none"] < products["selective"] == products["full"] - (5 + 7) * NUM_LAYERS


@ATTENTIONS
def test_memory_lies_between_that_of_full_recomputation_and_none(attention):
    layout = RowLayout(((300, (10,) * 10),))
    peaks = {}
    for recomputation in ("none", "selective", "full"):
        model = trained("lora", attention, recomputation)
        peaks[recomputation] = peak_bytes(lambda model=model: step(model, layout))
    assert peaks["full"] < 0.95 * peaks["selective"] and peaks["selective"] < 0.7 * peaks["none"], peaks
