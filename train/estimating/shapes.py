"""Tensors that have a shape and no numbers, on which the model's own code runs: a step of 7B in seconds, anywhere.

Numbers with a point exist as shapes alone (torch's FakeTensor). Whole numbers, ids, labels and the layout of a row, are
real: what is computed depends on them.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Operations that reach a dispatch mode whole where no gradient is asked for, as within bitsandbytes' own.
COMPOSED = (torch.ops.aten.linear.default, torch.ops.aten.matmul.default)
Watcher = Callable[[Any, tuple, dict, Any], None]


class Shapes(TorchDispatchMode):
    """Within it every operation that has or makes numbers with a point is done on shapes.

    watch: told of each operation, its arguments and what it returned.
    """

    def __init__(self, watch: Watcher | None = None):
        super().__init__()
        self.fake = FakeTensorMode()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs = kwargs or {}
        if func in COMPOSED:
            with self:
                return func.decompose(*args, **kwargs)
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if any(isinstance(each, FakeTensor) for each in tensors):
            args, kwargs = tree_map(self._as_shape, (args, kwargs))
            result = func(*args, **kwargs)
        elif tensors:
            result = func(*args, **kwargs)
        else:
            with self.fake:
                result = func(*args, **kwargs)
            if isinstance(result, torch.Tensor) and not result.is_floating_point():
                result = func(*args, **kwargs)
        if self.watch is not None:
            self.watch(func, args, kwargs, result)
        return result

    def _as_shape(self, value: Any) -> Any:
        is_real = isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)
        return self.fake.from_tensor(value) if is_real else value

    def take(self, module: nn.Module) -> None:
        """Put shapes in the places of a module's parameters and buffers, which are on the meta device."""
        taken: dict[int, Any] = {}  # tied ones stay tied
        for part in module.modules():
            for name, value in list(part.named_parameters(recurse=False)):
                setattr(part, name, taken.setdefault(id(value), self._parameter(value)))
            for name, value in list(part.named_buffers(recurse=False)):
                setattr(part, name, self._of_meta(value))

    def tensor(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        return FakeTensor(self.fake, torch.empty(shape, dtype=dtype, device="meta"), torch.device("cpu"))

    def _parameter(self, value: nn.Parameter) -> nn.Parameter:
        """Return a parameter like `value`, with what bitsandbytes has written onto it."""
        shape = nn.Parameter(self.tensor(value.shape, value.dtype), requires_grad=value.requires_grad)
        for name, attribute in vars(value).items():
            setattr(shape, name, self._of_meta(attribute))
        return shape

    def _of_meta(self, value: Any) -> Any:
        if isinstance(value, QuantState):
            state = copy.copy(value)
            for name, attribute in vars(value).items():
                setattr(state, name, self._of_meta(attribute))
            return state
        is_meta = isinstance(value, torch.Tensor) and value.is_meta
        return self.tensor(value.shape, value.dtype) if is_meta else value
