"""Compute a model in half precision quickly on a CPU that has no arithmetic for it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# PyTorch has no public name for these questions to oneDNN, whose kernels are the fast ones.
HAS_ARITHMETIC = {
    torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
}


def has_arithmetic(dtype: torch.dtype) -> bool:
    """Return whether this CPU multiplies matrices of a type at full speed."""
    return dtype not in HAS_ARITHMETIC or HAS_ARITHMETIC[dtype]()


class WidenedLayer:
    """A layer that keeps its weights as they are, and multiplies in float32 what comes in.

    Weights are widened for one call and layer at a time, so that a model needs no more memory than before; the output
    is rounded to the weights' type, as its own arithmetic would.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d):
        self.narrow = [parameter.data for parameter in layer.parameters(recurse=False)]
        self.handles = [layer.register_forward_pre_hook(self._widen), layer.register_forward_hook(self._restore)]

    def _widen(self, layer: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.float()
        return (args[0].float(),)

    def _restore(self, layer: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        for parameter, narrow in zip(layer.parameters(recurse=False), self.narrow, strict=True):
            parameter.data = narrow
        return output.to(self.narrow[0].dtype)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


@contextmanager
def fast_arithmetic(model: nn.Module, dtype: torch.dtype) -> Iterator[str]:
    """Let a model on the CPU compute its layers of `dtype` in the fastest type that loses nothing; yields its name."""
    if has_arithmetic(dtype):
        yield str(dtype).removeprefix("torch.")
        return
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    widened = [WidenedLayer(layer) for layer in layers if layer.weight.dtype == dtype]
    try:
        yield "float32"
    finally:
        for layer in widened:
            layer.remove()
