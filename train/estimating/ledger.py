"""The tensors that live while a step runs on shapes, and the work that the step is."""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from data.packing.layout import RowLayout

# bitsandbytes' products of states and a quantised weight, of which torch has no formula.
QUANTISED_PRODUCTS = ("bitsandbytes::gemm_4bit", "bitsandbytes::int8_scaled_mm")
NOTHING: Counter[str] = Counter()


class Ledger:
    """Told of every operation, it knows the bytes of all tensors that live, by the part of the step that made them.

    part: the name under which new tensors are entered. window: the stretch of the step that is running; each has a
    peak of its own. on_gpu: a CPU keeps the mask of a dropout in the number type, a GPU in a byte an element.
    """

    def __init__(self, part: str, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.part, self.window, self.adds_in_place = part, "start", False
        self.live: Counter[str] = Counter()
        self.total = 0
        self.peaks: dict[str, Counter[str]] = {}
        self.flops, self.bytes_moved, self.launches = 0, 0, 0
        self._found: dict[int, tuple[str, int]] = {}  # storage -> part, bytes

    def watch(self, func: Any, args: tuple, kwargs: dict, result: Any) -> None:
        """Enter what an operation has made. Views and what it has written into are there already."""
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        made = [each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        known = {each.untyped_storage()._cdata for each in given}
        is_new = False
        for tensor in made:
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                is_new = True
                self._enter(storage)
        if self.on_gpu and func is torch.ops.aten.bernoulli_.float:  # the mask of a dropout, which is bool there
            self._enter(args[0].untyped_storage(), args[0].numel())
        if is_new or func._schema.is_mutable:
            self._add_work(func, args, kwargs, result, [*given, *made])
        # Autograd adds gradients in place where nobody else holds them, but not those of shapes.
        if self.adds_in_place and func is torch.ops.aten.add.Tensor:
            return
        if self.total > self.peaks.get(self.window, NOTHING).total():
            self.peaks[self.window] = self.live.copy()

    def _enter(self, storage: torch.UntypedStorage, size: int | None = None) -> None:
        """Enter a storage, or another size of it."""
        key, is_new = storage._cdata, storage._cdata not in self._found
        if not is_new and size is None:
            return
        self._leave(key)
        self._add(key, self.part, storage.nbytes() if size is None else size)
        if is_new:
            weakref.finalize(storage, self._leave, key)

    def _add(self, key: int, part: str, size: int) -> None:
        self._found[key] = part, size
        self.live[part] += size
        self.total += size

    def _leave(self, key: int) -> None:
        part, size = self._found.pop(key, (self.part, 0))
        self.live[part] -= size
        self.total -= size

    def move(self, tensors: Iterable[torch.Tensor], part: str) -> None:
        """Enter tensors under another part than that which made them."""
        for tensor in tensors:
            if (key := tensor.untyped_storage()._cdata) in self._found:
                size = self._found[key][1]
                self._leave(key)
                self._add(key, part, size)

    def _add_work(self, func: Any, args: tuple, kwargs: dict, result: Any, tensors: list[torch.Tensor]) -> None:
        self.launches += 1
        if func._schema.name in QUANTISED_PRODUCTS:
            self.flops += 2 * args[0].numel() * result.shape[-1]
            return
        if (count := flop_registry.get(func._overloadpacket)) is not None and "attention" not in str(func):
            self.flops += count(*args, **kwargs, out_val=result)
        else:
            self.bytes_moved += sum(each.numel() * each.element_size() for each in tensors)


def attention_flops(layout: RowLayout, width: int, num_layers: int) -> int:
    """Return the FLOPs of a decoder's attention forward: 4 x width for each pair of a query and a key that it sees.

    Backward takes twice as many. Formulas of kernels count pairs that a mask hides.
    """
    pairs = (num_layers - 1) * visible_pairs(layout) + visible_pairs(layout, suffixes_only=True)
    return 4 * width * pairs


def visible_pairs(layout: RowLayout, suffixes_only: bool = False) -> int:
    """Return the pairs of a row, or of those queries that the last layer has, see `train.model.last_layer`."""
    pairs = 0
    for prefix, suffixes in layout.groups:
        pairs += sum(prefix * length + length * (length + 1) // 2 for length in suffixes)
        if not (suffixes_only and suffixes):
            pairs += prefix * (prefix + 1) // 2
    return pairs
