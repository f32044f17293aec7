"""Compiled decoder layers: the gradients of the layers as they are, and few graphs, whatever a row's lengths."""

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from data.packing.layout import RowLayout, packed_inputs
from train.model import compiled
from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED
from train.model.compiled import (
    ADVICE,
    IN_PARTS,
    NOT_AT_ALL,
    WORTH_COMPILING,
    can_build_kernels,
    compile_layers,
    has_whole_graph,
    pays_to_compile,
    speed_up_layers,
    take_over,
)
from train.model.fingerprint import last_logits, reference_inputs
from train.model.last_layer import LastLlamaLayer
from train.model.load import decoder_attention, quiet_libraries
from train.model.recomputed import recompute
from train.model.shared_dropout import SharedDropout


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
    torch.manual_seed(1)  # dropout
    inputs = packed_inputs(layout)
    ids = torch.arange(sum(layout.group_lengths))[None] % 50
    logits = model(input_ids=ids, **inputs).logits[:, inputs["suffix_positions"]]
    model.zero_grad()
    logits.square().sum().backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.requires_grad])


def adapted(model, dropout):
    """Put adapters on a decoder."""
    settings = LoraConfig(r=2, lora_dropout=dropout, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, settings).train()


@pytest.mark.parametrize(
    "adapts, recomputation, num_rows",
    [(False, "none", 50), (False, "full", 4), (True, "none", 4), (True, "selective", 4), (True, "full", 4)],
)
def test_rows_of_any_lengths_take_three_graphs_and_give_the_same_gradients(adapts, recomputation, num_rows, capfd):
    quiet_libraries()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # of other tests in this process
    recomputes = recomputation != "none"
    # Backends that run a graph as it is draw other dropout when they recompute.
    model = adapted(decoder(), dropout=0.0 if recomputes else 0.5) if adapts else decoder()
    speed_up_layers(model, None, recomputes=recomputes)
    if recomputes:
        recompute(model, recomputation == "selective")
        model.enable_input_require_grads()
    layouts = [random_row(seed) for seed in range(num_rows)]
    expected = [gradients(model, layout) for layout in layouts]
    graphs = []

    def note(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_layers(model, backend=note)
    for layout, wanted in zip(layouts, expected, strict=True):
        torch.testing.assert_close(gradients(model, layout), wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))
    # The first layer, whose input needs no gradient unless layers are recomputed, those between, and the last.
    assert 2 <= len(graphs) <= 3
    assert not torch._dynamo.utils.counters["graph_break"]
    # torch warns of operations that write into their tensors where a graph is recomputed selectively: there are none.
    assert not [name for name in operations(graphs) if name.endswith("_") and not name.endswith("__")]
    assert "in-place" not in capfd.readouterr().err


def test_a_fingerprint_makes_no_graph(model, processor):
    inputs = reference_inputs(processor)
    expected, graphs = last_logits(model, inputs), []
    compile_layers(model, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    torch.testing.assert_close(last_logits(model, inputs), expected, rtol=0, atol=0)
    assert graphs == []


def operations(graphs) -> set[str]:
    """Return the names of what graphs call, those within them too."""
    nodes = [
        node for graph in graphs for part in graph.modules() if hasattr(part, "graph") for node in part.graph.nodes
    ]
    called = {node.target for node in nodes if node.op in ("call_function", "call_method")}
    assert len(called) > 10
    return {str(getattr(target, "__name__", target)) for target in called}


@pytest.mark.parametrize(
    ("attention", "recomputes", "line"),
    [
        (SHARED_PREFIX, False, IN_PARTS),
        (SHARED_PREFIX, True, NOT_AT_ALL),
        (SHARED_PREFIX_UNMASKED, True, None),
    ],
)
def test_attention_that_breaks_graphs_is_said(attention, recomputes, line, caplog):
    model = decoder()
    model.set_attn_implementation(attention)
    speed_up_layers(model, {"backend": "eager", "mode": None}, recomputes=recomputes)
    assert [record.message for record in caplog.records] == ([line] if line else [])
    assert line is None or len(line) <= 80


def test_what_auto_takes_for_compiled_layers(monkeypatch):
    """A CPU gets flash, whose graph has no break; a GPU has it in half precision alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [decoder_attention("auto", "float32", compiles) for compiles in (False, True)] == [
        SHARED_PREFIX,
        SHARED_PREFIX_UNMASKED,
    ]
    assert decoder_attention("sdpa", "float32", True) == SHARED_PREFIX
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert decoder_attention("auto", "float32", True) == SHARED_PREFIX
    assert decoder_attention("auto", "bfloat16") == SHARED_PREFIX_UNMASKED


def test_names_of_weights_stay():
    plain, graphs = decoder(), decoder()
    speed_up_layers(graphs, {"backend": "inductor", "mode": None})
    assert [layer._compiled_call_impl is not None for layer in graphs.model.layers] == [True] * 4
    assert list(graphs.state_dict()) == list(plain.state_dict())
    assert type(graphs.model.layers[-1]) is LastLlamaLayer and graphs.model.layers[-1].training


@pytest.mark.parametrize(
    "compiles, recomputes, is_shared",
    [(False, False, True), (True, False, True), (False, True, True), (True, True, False)],
)
def test_dropout_is_shared_but_in_graphs_that_recompute(compiles, recomputes, is_shared):
    model = adapted(decoder(), dropout=0.5)
    speed_up_layers(model, {"backend": "eager", "mode": None} if compiles else None, recomputes=recomputes)
    assert any(isinstance(module, SharedDropout) for module in model.modules()) != (compiles and recomputes)


@pytest.mark.parametrize("pays, may_advise", [(True, True), (True, False), (False, True)])
def test_advice_to_compile_where_it_pays_and_the_recipe_leaves_it_open(pays, may_advise, monkeypatch, caplog):
    assert not pays_to_compile(decoder())  # it is on a CPU
    monkeypatch.setattr(compiled, "pays_to_compile", lambda model: pays)
    model = decoder()
    with caplog.at_level("INFO"):
        speed_up_layers(model, None, may_advise=may_advise)
    assert (ADVICE in caplog.text) == (pays and may_advise)
    assert not any(layer._compiled_call_impl for layer in model.model.layers)


def test_large_layers_with_a_whole_graph_are_worth_a_minute():
    config = decoder().config
    assert has_whole_graph(config, WORTH_COMPILING) and not has_whole_graph(config, WORTH_COMPILING - 1)
    config._attn_implementation = SHARED_PREFIX
    assert not has_whole_graph(config, WORTH_COMPILING)


def test_a_machine_without_a_compiler_builds_no_kernels(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not can_build_kernels()
    monkeypatch.setenv("CC", "cat")
    assert can_build_kernels()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    assert not can_build_kernels()


def test_trainer_compiles_nothing_itself(tmp_path):
    args = TrainingArguments(str(tmp_path), torch_compile=True, torch_compile_mode="default", use_cpu=True)
    assert take_over(args) == {"backend": "inductor", "mode": "default"}
    assert not args.torch_compile and args.torch_compile_backend is args.torch_compile_mode is None
    assert take_over(args) is None
