"""The model of a recipe with names and shapes and no weights, made by the functions that make the trained one."""

import copy
from collections.abc import Sequence
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import quantize_4bit
from torch import nn
from transformers import VideoLlavaForConditionalGeneration

from data.video_llava import DECODER
from train.loop.ready_features import ReadyFeatures, towers_of
from train.model.adapters import add_adapter, unfreeze
from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED
from train.model.compiled import speed_up_layers
from train.model.initialisation import begins_at_weights
from train.model.load import decoder_attention
from train.model.recomputed import recompute
from train.model.token_rows import num_rows
from train.recipe.recipe import Recipe
from train.recipe.recomputation import settings_of

SAMPLE = 64  # weights that share a scale


def meta_model(recipe: Recipe, config: Any, num_layers: int, on_gpu: bool, token_ids: Sequence[int] = ()) -> nn.Module:
    """Return the model that a recipe trains, on the meta device, its decoder cut to `num_layers`.

    config: of the base. token_ids: of model.add_tokens.
    """
    model = recipe.model
    config = cut(config, num_layers)
    config.text_config._attn_implementation = attention(model.attn_implementation, model.dtype, on_gpu, recipe.compiles)
    config.vision_config._attn_implementation = "eager" if model.attn_implementation == "eager" else "sdpa"
    if token_ids:
        config.text_config.vocab_size = num_rows(config.text_config.vocab_size, token_ids)
    base = _of_dtype(config, getattr(torch, model.dtype))
    if model.quantization:
        _quantise(base.get_submodule(f"model.{DECODER}"), model.quantization, model.double_quantization)
        base.is_loaded_in_8bit = model.quantization == "int8"  # PEFT looks for these
        base.is_loaded_in_4bit = model.quantization != "int8"
    if recipe.data.feature_cache:
        for name, _ in towers_of(base).values():
            parent, _, leaf = name.rpartition(".")
            setattr(base.get_submodule(parent), leaf, ReadyFeatures(*feature_layers(config)))
    trained = _trained(recipe, base.requires_grad_(False).eval(), token_ids)
    speed_up_layers(trained, None)
    base.config.use_cache = False  # as Trainer sets it
    if recipe.recomputation != "none":
        recompute(trained, recipe.recomputation == "selective", settings_of(recipe.training))
    return trained.train()


def feature_layers(config: Any) -> tuple[tuple[int, ...], int]:
    """Return the layers whose features the projector takes, and how many hidden states a tower has."""
    layers = config.vision_feature_layer
    return (layers,) if isinstance(layers, int) else tuple(layers), config.vision_config.num_hidden_layers + 1


def cut(config: Any, num_layers: int) -> Any:
    """Return the config of a model whose decoder has the first `num_layers` layers alone."""
    config = copy.deepcopy(config)
    config.text_config.num_hidden_layers = num_layers
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = config.text_config.layer_types[:num_layers]
    return config


def attention(wanted: str, dtype: str, on_gpu: bool, compiles: bool) -> str:
    """Return the registered name of a decoder's attention on a GPU, which need not be there, or on this CPU."""
    if wanted == "flash_attention_2":
        return "sdpa"  # keeps the same
    if not on_gpu or wanted == "eager":
        return decoder_attention(("flash" if compiles else "sdpa") if wanted == "auto" else wanted, dtype)
    return SHARED_PREFIX_UNMASKED if wanted != "sdpa" and dtype != "float32" else SHARED_PREFIX


def _of_dtype(config: Any, dtype: torch.dtype) -> Any:
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            return VideoLlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)


def _trained(recipe: Recipe, base: Any, token_ids: Sequence[int]) -> Any:
    """Return the base with its adapter, or with the parts that are trained themselves."""
    with torch.device("meta"):
        if recipe.lora is None:
            assert recipe.model.trainable is not None
            return unfreeze(base, recipe.model.trainable)
        settings = recipe.adapter() or {}
        if begins_at_weights(settings["init_lora_weights"]):
            settings["r"], settings["alpha"] = 2 * settings["r"], 2 * settings["alpha"]
        settings["init_lora_weights"] = True  # any other way looks at the weights
        return add_adapter(base, token_ids=token_ids, **settings)


def _quantise(decoder: nn.Module, to: str, double: bool) -> None:
    """Put bitsandbytes' layers in the places of the decoder's linear ones."""
    # bitsandbytes makes its tables once, on the device of the first weight that it sees. Another's must not be "meta".
    quantize_4bit(torch.zeros(SAMPLE), compress_statistics=True)
    for name, linear in [(name, each) for name, each in decoder.named_modules() if isinstance(each, nn.Linear)]:
        parent, _, leaf = name.rpartition(".")
        make = _int8 if to == "int8" else _four_bits
        setattr(decoder.get_submodule(parent), leaf, make(linear, to, double))


def _four_bits(linear: nn.Linear, to: str, double: bool) -> nn.Module:
    size, weight = (linear.in_features, linear.out_features), linear.weight.data
    layer: Any = bnb.nn.Linear4bit(
        *size, bias=linear.bias is not None, compute_dtype=weight.dtype, compress_statistics=double, quant_type=to,
        device="meta",
    )  # fmt: skip
    packed, state = quantize_4bit(weight, compress_statistics=double, quant_type=to)
    make: Any = bnb.nn.Params4bit  # takes its arguments in __new__
    layer.weight = make(packed, quant_state=state, compress_statistics=double, quant_type=to, bnb_quantized=True)
    layer.support_avx512bf16_for_cpu = False  # as `train.model.load.keep_weights_trainable`
    return layer


def _int8(linear: nn.Linear, to: str, double: bool) -> nn.Module:
    size, weight = (linear.in_features, linear.out_features), linear.weight
    layer: Any = bnb.nn.Linear8bitLt(*size, bias=linear.bias is not None, has_fp16_weights=False, device="meta")
    whole = torch.empty(weight.shape, dtype=torch.int8, device="meta")
    scales = torch.empty(len(weight), dtype=torch.float32, device="meta")
    make: Any = bnb.nn.Int8Params
    layer.weight = make(whole, requires_grad=False, has_fp16_weights=False, CB=whole, SCB=scales)
    return layer
