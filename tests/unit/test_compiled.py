"""Compiled decoder layers: the gradients of the layers as they are, and few graphs, whatever a row's lengths."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from data.packing.layout import RowLayout, packed_inputs
from train.model.attention import SHARED_PREFIX_UNMASKED
from train.model.compiled import compile_layers, speed_up_layers, take_over
from train.model.last_layer import run_last_layer_on_suffixes

NUM_ROWS = 50


def decoder():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    config._attn_implementation = SHARED_PREFIX_UNMASKED
    model = LlamaForCausalLM(config).train()
    model.model.embed_tokens.requires_grad_(False)
    run_last_layer_on_suffixes(model)
    return model


def random_row(seed: int) -> RowLayout:
    draw = random.Random(seed)
    return RowLayout(
        tuple(
            (draw.randint(1, 40), tuple(draw.randint(1, 9) for _ in range(draw.randint(0, 5))))
            for _ in range(draw.randint(1, 4))
        )
    )


def gradients(model, layout: RowLayout) -> torch.Tensor:
    inputs = packed_inputs(layout)
    ids = torch.arange(sum(layout.group_lengths))[None] % 50
    logits = model(input_ids=ids, **inputs).logits[:, inputs["suffix_positions"]]
    model.zero_grad()
    logits.square().sum().backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.requires_grad])


@pytest.mark.parametrize("recomputes", [False, True], ids=["plain", "checkpointing"])
def test_rows_of_any_lengths_take_two_graphs_and_give_the_same_gradients(recomputes):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # of other tests in this process
    model = decoder()
    if recomputes:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    layouts = [random_row(seed) for seed in range(NUM_ROWS)]
    expected = [gradients(model, layout) for layout in layouts]
    graphs = []

    def note(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_layers(model, backend=note)
    for layout, wanted in zip(layouts, expected, strict=True):
        torch.testing.assert_close(gradients(model, layout), wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))
    assert 1 <= len(graphs) <= 2
    assert not torch._dynamo.utils.counters["graph_break"]


def test_names_of_weights_stay():
    plain, compiled = decoder(), decoder()
    speed_up_layers(compiled, {"backend": "inductor", "mode": None})
    assert [layer._compiled_call_impl is not None for layer in compiled.model.layers] == [True, True, True, False]
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_trainer_compiles_nothing_itself(tmp_path):
    args = TrainingArguments(str(tmp_path), torch_compile=True, torch_compile_mode="default", use_cpu=True)
    assert take_over(args) == {"backend": "inductor", "mode": "default"}
    assert not args.torch_compile and args.torch_compile_backend is args.torch_compile_mode is None
    assert take_over(args) is None
