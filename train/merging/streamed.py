"""A model that runs while one of its layers at a time has weights: however large it is, it takes the memory of one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from data.progress.bars import shown
from train.merging.adapted import filled
from train.merging.tensors import Weights
from train.model.fingerprint import last_logits
from train.results.fast_arithmetic import has_arithmetic


@dataclass
class Unit:
    """A part of a model whose weights come and go together. deep: with all modules inside."""

    name: str
    module: nn.Module
    deep: bool
    open: ExitStack = field(default_factory=ExitStack)


def units_of(module: nn.Module, name: str = "") -> Iterator[Unit]:
    """Yield the layers of a model, each as a whole, and what stands around them.

    Some modules use the weights of those inside them without running these, but none does so across layers.
    """
    if not any(isinstance(inside, nn.ModuleList) and len(inside) for inside in module.modules()):
        if next(module.parameters(), None) is not None:
            yield Unit(name, module, deep=True)
        return
    if next(module.parameters(recurse=False), None) is not None:
        yield Unit(name, module, deep=False)
    for child, inside in module.named_children():
        full = f"{name}.{child}" if name else child
        if isinstance(module, nn.ModuleList):
            yield Unit(full, inside, deep=True)
        else:
            yield from units_of(inside, full)


@contextmanager
def streamed(model: nn.Module, weights: Weights, place: Callable, done: Callable[[], None]) -> Iterator[None]:
    """Let each unit of a bare model read its weights when it is run, and forget them afterwards."""
    units = list(units_of(model))
    waiting = {unit.name for unit in units}

    def fill(unit: Unit) -> Callable[..., None]:
        def before(module: nn.Module, args: Any) -> None:
            unit.open.enter_context(filled(module, f"{unit.name}.", weights, place, unit.deep))

        return before

    def empty(unit: Unit) -> Callable[..., None]:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            unit.open.close()
            if unit.name in waiting:  # the projector runs for pictures, and for clips
                waiting.discard(unit.name)
                done()

        return after

    handles = []
    try:
        for unit in units:
            handles += [
                unit.module.register_forward_pre_hook(fill(unit)),
                unit.module.register_forward_hook(empty(unit)),
            ]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for unit in units:
            unit.open.close()


def device() -> torch.device:
    """Return where models are run: on a GPU where there is one."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def arithmetic_of(dtype: torch.dtype) -> torch.dtype:
    """Return the number type to compute in: float32 on a CPU that has no arithmetic for `dtype`."""
    return dtype if device().type != "cpu" or has_arithmetic(dtype) else torch.float32


def streamed_logits(
    model: nn.Module, weights: Weights, inputs: Mapping[str, torch.Tensor], dtype: torch.dtype, what: str
) -> torch.Tensor:
    """Return the logits of `last_logits`, computed in `dtype` with weights that are read layer by layer."""
    where = device()

    def place(tensor: torch.Tensor, is_matrix: bool) -> torch.Tensor:
        return tensor.to(where, torch.float32 if is_matrix else dtype)

    with shown(what, len(list(units_of(model))), "layers") as bar, streamed(model, weights, place, bar.advance):
        return last_logits(model, inputs, where, dtype)
