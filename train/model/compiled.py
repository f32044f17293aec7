"""torch.compile for the layers of the decoder: one graph for all of them and for rows of any length."""

import logging
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, TrainingArguments

from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED
from train.model.flash_kernels import AMPERE
from train.model.last_layer import decoder_layers, run_last_layer_on_suffixes
from train.model.shared_dropout import share_dropout

logger = logging.getLogger(__name__)

WORTH_COMPILING = 1_000_000_000  # weights of a decoder: a small one is trained in the time that compiling takes
COMPILERS = ("cc", "gcc", "clang")  # one builds what calls Triton's kernels

ADVICE = "training.torch_compile: true takes a third off a step here, after two minutes in the first"

IN_PARTS = "torch_compile: with sdpa layers are compiled in parts; flash gives whole graphs"
NOT_AT_ALL = "torch_compile: recomputed layers with sdpa are not compiled; with flash they are"

Compilation = dict[str, str | None]  # backend and mode; None is torch's default


def take_over(args: TrainingArguments) -> Compilation | None:
    """Return backend and mode of the compiler where a recipe asks for torch_compile, and keep Trainer from compiling
    the whole model, which would run the hooks of one layer for another."""
    if not args.torch_compile:
        return None
    wanted = {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode}
    args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None
    return wanted


def speed_up_layers(
    model: nn.Module, compilation: Compilation | None, *, recomputes: bool = False, may_advise: bool = False
) -> None:
    """Run the last decoder layer on suffixes alone, and compile all where `take_over` says so.

    may_advise: say so where compiling would pay, because the recipe leaves it open.
    """
    run_last_layer_on_suffixes(model)
    if compilation is None and may_advise and pays_to_compile(model):
        logger.info(ADVICE)
    if compilation is not None:
        if breaks_graphs(model):
            logger.warning(NOT_AT_ALL if recomputes else IN_PARTS)
        compile_layers(model, compilation["backend"] or "inductor", compilation["mode"])
    if compilation is None or not recomputes:  # a graph that recomputes cannot have a tensor kept between two layers
        share_dropout(model)


def pays_to_compile(model: nn.Module) -> bool:
    """Return whether a graph of the layers was seen to be much faster: on a 7B model on one GPU by a third.

    Not done unasked: the command as a whole was not seen to train so on a GPU.
    """
    weight, config = next(model.parameters()), getattr(model, "config", None)
    return (
        weight.device.type == "cuda"
        and isinstance(config, PreTrainedConfig)
        and has_whole_graph(config, sum(each.numel() for each in decoder_layers(model).parameters()))
        and torch.cuda.get_device_capability(weight.device) >= AMPERE
        and can_build_kernels()
    )


def has_whole_graph(config: PreTrainedConfig, num_weights: int) -> bool:
    """Return whether the layers are large, and nothing breaks their graph; weights of 4 bits count by the byte."""
    attention = config.get_text_config()._attn_implementation
    return attention == SHARED_PREFIX_UNMASKED and num_weights >= WORTH_COMPILING


def breaks_graphs(model: nn.Module) -> bool:
    """Return whether attention of packed rows breaks the graph of a layer: nothing of a layer is compiled then where it
    is recomputed, because torch compiles no part of what a checkpoint runs."""
    config: Any = getattr(model, "config", None)
    return isinstance(config, PreTrainedConfig) and config.get_text_config()._attn_implementation == SHARED_PREFIX


def can_build_kernels() -> bool:
    """Return whether torch's compiler finds what it needs on this machine."""
    compilers = (os.environ["CC"],) if "CC" in os.environ else COMPILERS
    return find_spec("triton") is not None and any(map(shutil.which, compilers))


def compile_layers(model: nn.Module, backend: str | Callable = "inductor", mode: str | None = None) -> None:
    """Compile every decoder layer in place; parameters keep their names.

    The layers share their code, so what is compiled for one serves all: one graph for the first layer, whose input has
    no gradient unless layers are recomputed, one for those between, and one for the last, which leaves prefixes out
    (`train.model.last_layer`).
    """
    for layer in decoder_layers(model):
        layer.compile(backend=backend, mode=mode, dynamic=True)
