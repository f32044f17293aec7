"""The bytes of a model's weights and of what an optimizer keeps about them."""

from collections import Counter
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Int8Params, Params4bit
from bitsandbytes.optim.optimizer import Optimizer8bit
from torch import nn
from torch.utils._pytree import tree_leaves
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from data.errors import UserError, first_line
from data.video_llava import DECODER, PROJECTOR, TOWERS
from train.recipe.late_arguments import REFUSALS

PAGED = "is_paged"  # bitsandbytes' name


def count_weights(model: nn.Module) -> Counter[str]:
    """Return the bytes of each part of a model on the meta device, named with its number type."""
    counted: Counter[str] = Counter()
    for name, parameter in model.named_parameters():  # tied ones once
        part = "trained" if parameter.requires_grad else _part(name)
        counted[f"{part}, {_dtype(parameter)}"] += _size(parameter)
        if scales := _scales(parameter):
            counted["scales of the quantised weights"] += scales
    for name, buffer in model.named_buffers():
        counted[f"{_part(name)}, buffers"] += _size(buffer)
    return counted


def _part(name: str) -> str:
    path = name.split(".")
    if any(tower in path for tower in TOWERS):
        return "towers"
    if PROJECTOR in path:
        return "projector"
    return "decoder" if DECODER in path and "embed_tokens" not in path else "embeddings and head"


def _dtype(parameter: nn.Parameter) -> str:
    if isinstance(parameter, Params4bit):
        return str(parameter.quant_type)
    return "int8" if isinstance(parameter, Int8Params) else str(parameter.dtype).removeprefix("torch.")


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _scales(parameter: Any) -> int:
    """Return the bytes beside a quantised weight; the table of the 16 values of a 4-bit type is too small to matter."""
    if isinstance(parameter, Params4bit):
        return sum(map(_size, _tensors_of(parameter.quant_state)))
    return _size(parameter.SCB) if isinstance(parameter, Int8Params) else 0


def _tensors_of(state: QuantState) -> list[torch.Tensor]:
    inner = [state.state2] if state.nested else []
    return [each for some in (state, *inner) for each in vars(some).values() if isinstance(each, torch.Tensor)]


def largest_matrix(model: nn.Module) -> int:
    """Return how many weights the largest matrix has, however it is kept."""
    sizes = [0]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        sizes.append(parameter.numel() if state is None else state.shape.numel())
    return max(sizes)


def make_optimizer(args: TrainingArguments, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the recipe's optimizer; of a paged one its twin, whose states are of the same size."""
    try:
        optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        return optimizer_class(trained, **{name: value for name, value in settings.items() if name != PAGED})
    except REFUSALS as problem:  # a package is missing; GaLore, APOLLO and LOMO want a model with weights
        name = OptimizerNames(args.optim).value
        raise UserError(f"training.optim: {name} cannot be counted: {first_line(problem)}") from problem


def optimizer_step(optimizer: Any, max_grad_norm: float) -> int:
    """Take a step on shapes; returns the bytes of what the optimizer keeps.

    bitsandbytes' step runs in kernels that need nothing else; torch's may make copies of all gradients.
    """
    trained = [each for group in optimizer.param_groups for each in group["params"]]
    nn.utils.clip_grad_norm_(trained, max_grad_norm)
    if isinstance(optimizer, Optimizer8bit):
        for number, group in enumerate(optimizer.param_groups):
            for place, parameter in enumerate(group["params"]):
                optimizer.init_state(group, parameter, number, place)
    else:
        optimizer.step()
    return sum(_size(each) for each in tree_leaves(list(optimizer.state.values())) if isinstance(each, torch.Tensor))


def is_paged(args: TrainingArguments) -> bool:
    """Tell whether the optimizer's states may leave the GPU when memory is short."""
    return "paged" in OptimizerNames(args.optim).value
