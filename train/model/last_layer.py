"""The last decoder layer for the suffixes of a packed row alone: nothing behind it reads the prefixes.

What the loss reads of the last layer stands in the suffixes. Of the prefixes, thousands of visual tokens, it needs
keys and values alone; queries, attention, output projection and MLP of theirs would be computed in vain, in a model
of 12 layers about 7 % of a step. Exact: logits of suffixes and all gradients are those of the whole layer.

The layer is one of its family's own class, with the same modules under the same names, so that checkpoints, adapters
and what spreads layers over processes find what they know. Where the suffixes stand comes as an argument, through
transformers' `**kwargs`: a graph of torch.compile takes it as an input, and a recomputed layer gets it again.
"""

from typing import Any, Protocol, cast

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from data.packing.layout import RowLayout
from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED, shared_prefix_attention, unmasked_attention

ATTENTION = {SHARED_PREFIX: shared_prefix_attention, SHARED_PREFIX_UNMASKED: unmasked_attention}

# What accelerate puts around the forward pass of every module of a quantised model, to move inputs to its device.
AROUND_FORWARD = ("forward", "_old_forward", "_hf_hook")


class HasDecoder(Protocol):
    """A Video-LLaVA or a causal language model, with or without PEFT's adapters around it."""

    def get_decoder(self) -> nn.Module: ...


class LastLayer(nn.Module):
    """The part that the last layers of all families share; it stands before a family's layer among their bases.

    A pass without `suffix_positions` is that of the family's layer. In others the states that leave the layer are zero
    in prefixes.
    """

    self_attn: Any
    input_layernorm: Any
    post_attention_layernorm: Any
    mlp: Any

    def __init__(self, layer: nn.Module):
        """Take over the modules of a layer. Its family's `__init__` would make others."""
        nn.Module.__init__(self)
        known = {*vars(self), *AROUND_FORWARD} - {"training"}
        self.__dict__.update({name: value for name, value in vars(layer).items() if name not in known})
        for name, module in layer.named_children():
            self.add_module(name, module)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        suffix_positions: torch.Tensor | None = None,
        row_layout: RowLayout | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Compute the states (1, L, D) behind the layer, of the suffixes alone where (S,) says where they stand."""
        if suffix_positions is None or position_embeddings is None:
            if row_layout is not None:
                kwargs["row_layout"] = row_layout
            return super().forward(hidden_states, *args, position_embeddings=position_embeddings, **kwargs)
        states = self.input_layernorm(hidden_states)
        attended = self.attend(states, suffix_positions, row_layout, *position_embeddings)
        states = hidden_states.index_select(1, suffix_positions) + attended  # (1, S, D)
        states = states + self.mlp(self.post_attention_layernorm(states))
        return spread(states, suffix_positions, hidden_states.shape[1])

    def attend(
        self,
        states: torch.Tensor,
        positions: torch.Tensor,
        layout: RowLayout | None,
        cosines: torch.Tensor,
        sines: torch.Tensor,
    ) -> torch.Tensor:
        """Have the suffixes attend, (1, L, D) -> (1, S, D), as the family's attention does."""
        attention, length = self.self_attn, states.shape[1]
        shape = (1, length, -1, attention.head_dim)
        queries = spread(attention.q_proj(states.index_select(1, positions)), positions, length).view(shape)
        keys, values = attention.k_proj(states).view(shape), attention.v_proj(states).view(shape)
        queries, keys = self.normed(queries, keys)
        queries, keys = apply_rotary_pos_emb(queries.transpose(1, 2), keys.transpose(1, 2), cosines, sines)
        attended, _ = ATTENTION[attention.config._attn_implementation](
            attention,
            queries,
            keys,
            values.transpose(1, 2),
            None,
            row_layout=layout,
            suffixes_only=True,
            dropout=attention.attention_dropout if self.training else 0.0,
            scaling=attention.scaling,
            sliding_window=self.window(),
        )  # (1, L, H, D)
        return attention.o_proj(attended.flatten(2).index_select(1, positions))

    def normed(self, queries: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return queries, keys

    def window(self) -> int | None:
        """Return how many positions back a token sees, None for all."""
        return None


class LastLlamaLayer(LastLayer, LlamaDecoderLayer):
    """LLaMA's."""


class LastMistralLayer(LastLayer, MistralDecoderLayer):
    """Mistral's."""

    def window(self) -> int | None:
        return self.self_attn.config.sliding_window


class LastQwen2Layer(LastLayer, Qwen2DecoderLayer):
    """Qwen2's."""

    def window(self) -> int | None:
        return self.self_attn.sliding_window


class LastQwen3Layer(LastLayer, Qwen3DecoderLayer):
    """Qwen3's."""

    def normed(self, queries: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.self_attn.q_norm(queries), self.self_attn.k_norm(keys)

    def window(self) -> int | None:
        return self.self_attn.sliding_window


FAMILIES: dict[type[nn.Module], type[LastLayer]] = {
    LlamaDecoderLayer: LastLlamaLayer,
    MistralDecoderLayer: LastMistralLayer,
    Qwen2DecoderLayer: LastQwen2Layer,
    Qwen3DecoderLayer: LastQwen3Layer,
}


def spread(states: torch.Tensor, positions: torch.Tensor, length: int) -> torch.Tensor:
    """Put the suffixes' states in their places, (1, S, D) -> (1, L, D), zero in the prefixes."""
    return states.new_zeros(1, length, states.shape[-1]).index_copy(1, positions, states)


def run_last_layer_on_suffixes(model: nn.Module) -> None:
    """Put a layer that leaves prefixes out in the place of the decoder's last, once; other families keep theirs."""
    layers = decoder_layers(model)
    if (family := FAMILIES.get(type(layers[-1]))) is not None:
        layers[-1] = family(layers[-1])


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder's layers; model: one that `HasDecoder`."""
    return cast(nn.ModuleList, cast(HasDecoder, model).get_decoder().layers)
