"""LoRA is in the decoder alone; towers and projector stay frozen and whole, in 4 and 8 bit too."""

import re

import pytest
import torch
from torch import nn

from data.errors import UserError
from data.video_llava import PROJECTOR, TOWERS
from train.model.adapters import Part, add_adapter, describe_trained, target_pattern, unfreeze
from train.model.load import load_model

SMALL = {"r": 4, "alpha": 8, "dropout": 0.0}


def part_of(name):
    return next((part for part in (*TOWERS, PROJECTOR, "language_model") if part in name.split(".")), "lm_head")


@pytest.mark.parametrize("quantization", [None, "nf4", "fp4", "int8"])
def test_lora_matrices_are_in_the_decoder_only(model_folder, quantization):
    model = add_adapter(load_model(str(model_folder), quantization=quantization), **SMALL)
    lora = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    layers = range(4)
    leaves = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    assert sorted(lora) == sorted(
        f"base_model.model.model.language_model.layers.{layer}.{leaf}.lora_{side}.default.weight"
        for layer in layers
        for leaf in leaves
        for side in "AB"
    )
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in lora.values())
    for name, parameter in model.named_parameters():
        if name not in lora:
            assert not parameter.requires_grad
        if part_of(name) in (*TOWERS, PROJECTOR, "lm_head"):
            assert parameter.dtype == torch.float32, name
    for name, module in model.named_modules():
        if part_of(name) in (*TOWERS, PROJECTOR):
            assert type(module).__module__.split(".")[0] != "bitsandbytes", name
    quantised = [name for name, module in model.named_modules() if type(module).__module__.startswith("bitsandbytes")]
    assert len(quantised) == (28 if quantization else 0)


def test_without_the_pattern_adapters_would_land_in_the_towers(model):
    leaves = {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    in_towers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in leaves and part_of(name) in TOWERS
    ]
    assert len(in_towers) == 36  # two towers of three layers with six linear modules
    assert not any(re.fullmatch(target_pattern(model, "decoder"), name) for name in in_towers)


def test_decoder_and_projector(model):
    names = [n for n, _ in add_adapter(model, **SMALL, target="decoder+projector").named_parameters() if "lora_A" in n]
    assert {part_of(name) for name in names} == {"language_model", PROJECTOR}
    assert len(names) == 30


def test_a_regular_expression_may_ask_for_a_tower(model):
    wrapped = add_adapter(model, **SMALL, target=r"model\.video_tower.*\.(q_proj|v_proj)")
    names = [name for name, _ in wrapped.named_parameters() if "lora_A" in name]
    assert {part_of(name) for name in names} == {"video_tower"} and len(names) == 6


def test_a_pattern_without_a_match_is_an_error(model):
    with pytest.raises(UserError, match="lora.target: no linear layer's full name matches 'qkv'"):
        add_adapter(model, **SMALL, target="qkv")
    with pytest.raises(UserError, match="lora.modules_to_save: the model has no module 'projector'"):
        add_adapter(model, **SMALL, modules_to_save=["projector"])


def test_a_saved_projector_is_trained_whole(model):
    wrapped = add_adapter(model, **SMALL, modules_to_save=[PROJECTOR])
    trained = [n for n, p in wrapped.named_parameters() if p.requires_grad and "lora_" not in n]
    assert len(trained) == 4 and all(PROJECTOR in name and "modules_to_save" in name for name in trained)


@pytest.mark.parametrize(
    ("trainable", "parts"),
    [
        ("all", {*TOWERS, PROJECTOR, "language_model", "lm_head"}),
        ("decoder", {"language_model", "lm_head"}),
        ("projector", {PROJECTOR}),
        (r"image_tower.*layers\.1\.", {"image_tower"}),
    ],
)
def test_full_fine_tuning_of_a_part(model, trainable, parts):
    unfreeze(model.requires_grad_(False).to(torch.bfloat16), trainable)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {part_of(name) for name in trained} == parts
    assert all(parameter.dtype == torch.float32 for parameter in trained.values())


def test_nothing_to_train_is_an_error(model):
    with pytest.raises(UserError, match="model.trainable: no parameter's name matches 'vision_tower'"):
        unfreeze(model, "vision_tower")


def test_the_report_counts_packed_weights(model_folder):
    plain = describe_trained(add_adapter(load_model(str(model_folder)), **SMALL))
    packed = describe_trained(add_adapter(load_model(str(model_folder), quantization="nf4"), **SMALL))
    assert plain.splitlines()[0] == packed.splitlines()[0]
    assert plain.splitlines()[0].startswith("trained: 40,960 of ")
    assert "video_tower" in plain and plain.count("frozen") == 4


def test_the_report_of_a_large_model_fits_a_terminal():
    part = Part(total=6_607_343_616, trained=319_815_680, dtypes={"uint8", "bfloat16"})
    assert len(f"  {'language_model':22}{part}") <= 80
