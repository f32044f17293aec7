"""The tensors of a merged model: the base's, those that the adapter brings, and sums of both, made one at a time."""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from data.errors import UserError, one_line
from train.merging.adapted import Adapted, filled, is_matrix, name_in_base
from train.merging.layout import Layout
from train.merging.tensors import Weights
from train.merging.verdict import LAYER_TOLERANCE, check_difference

NUM_PROBES = 2  # inputs of a linear layer that is tried
NUM_PROBED_TOKENS = 64  # of embeddings, beside those that were trained


class Sums:
    """Returns merged tensors by name, in float32 where something was added. Raises UserError where a sum is no number.

    Every layer is tried before and after: the merged one must give what the layer with its adapter gave.
    """

    def __init__(self, adapted: Adapted, weights: Weights, layout: Layout):
        self.adapted, self.weights, self.layout = adapted, weights, layout
        self._made: dict[str, torch.Tensor] = {}  # of a layer whose other tensors were asked for

    def __call__(self, name: str) -> torch.Tensor:
        tensor = self._one(name)
        for other in self.layout.tied[name]:
            is_changed = any(self._changed(each) for each in (name, other))
            if other != name and is_changed and not torch.equal(tensor, self._one(other)):
                raise UserError(
                    f"the adapter changes {name} and {other} in different ways, and they are one tensor "
                    "(tie_word_embeddings): they cannot be merged"
                )
        return tensor

    def changes(self, name: str) -> bool:
        """Tell whether the adapter may change a tensor of the base."""
        if self._changed(name) is not None:
            return True
        return name in self.layout.parameters and not self.adapted.model.get_parameter(name).is_meta

    def _changed(self, name: str) -> tuple[str, nn.Module] | None:
        """Return the module of PEFT's that a tensor is in, with its name."""
        parts = name.split(".")
        prefixes = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
        return next(((each, self.adapted.changed[each]) for each in prefixes if each in self.adapted.changed), None)

    def _one(self, name: str) -> torch.Tensor:
        if name in self._made:
            return self._made.pop(name)
        if (changed := self._changed(name)) is not None:
            made = {f"{changed[0]}.{inside}": each for inside, each in _merged(*changed, self.weights)}
            tensor = made.pop(name)
            self._made |= made
            return tensor
        if name in self.layout.parameters:
            there = self.adapted.model.get_parameter(name)
            if not there.is_meta:  # a bias that was trained, outside the layers that have matrices
                return there.data
        return self.weights(name)


@torch.no_grad()
def _merged(name: str, module: nn.Module, weights: Weights) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors of a changed module without its adapter, by their names in it."""
    if isinstance(module, ModulesToSaveWrapper):  # the base's own module is not needed
        module = plain = module.unload_and_optionally_merge_module(merge=False, safe_merge=False, adapter_names=None)
    elif isinstance(module, AuxiliaryTrainingWrapper):
        plain = module.unload_and_optionally_merge_module(merge=False, safe_merge=False, adapter_names=None)
    else:
        assert isinstance(module, BaseTunerLayer)
        plain = module.get_base_layer()
    with filled(module, f"{name}.", weights, _in_float32, deep=True):
        for inside, layer in list(module.named_modules(prefix=name)):
            if isinstance(layer, BaseTunerLayer):
                _merge_layer(name_in_base(inside), layer)
        return [(name_in_base(inside), each) for inside, each in plain.state_dict().items() if not is_matrix(inside)]


def _in_float32(tensor: torch.Tensor, is_matrix: bool) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _merge_layer(name: str, layer: Any) -> None:
    """Add a layer's adapter to its weights, in place."""
    base = layer.get_base_layer()
    if isinstance(base, nn.Embedding):
        probe = _tokens_to_probe(layer, base.num_embeddings)
    elif isinstance(base, nn.Linear):
        probe = torch.randn(NUM_PROBES, base.in_features)
    else:
        raise UserError(f"the adapter changes {name}, a {type(base).__name__}; only linear layers can be merged")
    wanted = layer(probe)
    try:
        layer.merge(safe_merge=True)
    except ValueError as problem:
        raise UserError(f"the adapter is broken: {name}: {one_line(problem)}") from problem
    check_difference(base(probe), wanted, LAYER_TOLERANCE, f"outputs of {name}")
    layer.merged_adapters.clear()  # its matrices are beside the base's own weight again when the context ends


def _tokens_to_probe(layer: Any, num_tokens: int) -> torch.Tensor:
    trained = [each for ids in getattr(layer, "token_indices", {}).values() for each in ids]
    return torch.tensor(sorted({*trained[:NUM_PROBED_TOKENS], *range(min(num_tokens, NUM_PROBED_TOKENS))}))
