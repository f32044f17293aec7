"""The last decoder layer for the suffixes of a packed row alone: nothing behind it reads the prefixes.

What the loss reads of the last layer stands in the suffixes. Of the prefixes, thousands of visual tokens, it needs
keys and values alone; queries, attention, output projection and MLP of theirs would be computed in vain, in a model
of 12 layers about 7 % of a step. Exact: logits of suffixes and all gradients are those of the whole layer.
"""

from typing import Any, Protocol, cast

import torch
from torch import nn


class HasDecoder(Protocol):
    """A Video-LLaVA or a causal language model, with or without PEFT's adapters around it."""

    def get_decoder(self) -> nn.Module: ...


class SuffixesOnly:
    """Forward hooks on one decoder layer of LLaMA's build, without effect on passes that have no `suffix_positions`.

    The hidden states that leave the layer are meaningless in prefixes. Register after the adapters are in place:
    PEFT puts a module of its own in front of the one that it adapts. Not for a layer that is compiled: torch.compile
    has no guards on hooks, and would run the code of this layer for another one, or the other way around.
    """

    def __init__(self, layer: nn.Module):
        self.positions: torch.Tensor | None = None
        self.row_length = 0
        layer.register_forward_pre_hook(self._enter, with_kwargs=True)
        for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp"):
            module = layer.get_submodule(name)
            module.register_forward_pre_hook(self._select)
            module.register_forward_hook(self._spread)

    def _enter(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """Note where the suffixes stand. Old transformers also come here to recompute a checkpointed layer, new ones do
        not: then the row must be the one of the last forward pass, as it is where each is followed by its backward."""
        self.positions, self.row_length = kwargs.get("suffix_positions"), args[0].shape[1]
        return None if self.positions is None else (args, {**kwargs, "suffixes_only": True})

    def _select(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        """Take the suffixes' states, (1, L, D) -> (1, S, D)."""
        return None if self.positions is None else (args[0].index_select(1, self.positions), *args[1:])

    def _spread(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        """Put the suffixes' states back in place, (1, S, D) -> (1, L, D), zero in the prefixes."""
        if self.positions is None:
            return None
        return output.new_zeros(1, self.row_length, output.shape[-1]).index_copy(1, self.positions, output)


def run_last_layer_on_suffixes(model: nn.Module) -> None:
    """Register the hooks on the decoder's last layer."""
    SuffixesOnly(decoder_layers(model)[-1])


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder's layers; model: one that `HasDecoder`."""
    return cast(nn.ModuleList, cast(HasDecoder, model).get_decoder().layers)
