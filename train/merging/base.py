"""The weights that an adapter stands on: a checkpoint's, with rows for new tokens, rounded to 4 or 8 bits on demand."""

from dataclasses import dataclass, field
from typing import Any

import torch
from bitsandbytes import MatmulLtState, matmul
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Int8Params
from torch import nn

from data.errors import UserError
from train.merging.layout import Layout
from train.merging.streamed import device
from train.merging.tensors import Tensors
from train.model.token_rows import fill_rows

OUTLIERS = 6.0  # transformers' llm_int8_threshold: larger inputs are multiplied in 16 bits


@dataclass(frozen=True)
class Quantization:
    """nf4, fp4 or int8, the number type that training rounded from, and whether the constants were rounded, too."""

    kind: str
    dtype: torch.dtype
    double: bool

    def rounded(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight that quantised training multiplied with, in `dtype`."""
        weight = weight.to(self.dtype).contiguous()
        if self.kind == "int8":
            return weight  # `Int8Linear` rounds it
        there = weight.to(device())  # as fast as in training, and to the same numbers
        packed, state = quantize_4bit(there, compress_statistics=self.double, quant_type=self.kind)
        return dequantize_4bit(packed, state).to(weight.device)


@dataclass(frozen=True)
class BaseWeights:
    """The weights of a base by name, in the number type in which it is loaded.

    token_ids: of new tokens, which have rows. quantization: what the decoder's weights are rounded to, None for the
    full-precision base.
    """

    tensors: Tensors
    layout: Layout
    dtype: torch.dtype
    token_ids: list[int] = field(default_factory=list)
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        missing = [name for name in self.layout.shapes if self._saved_name(name) is None]
        if missing:
            raise UserError(
                f"{self.tensors.name_or_path} lacks {len(missing)} weights, the first {min(missing)}; it is no "
                "complete Video-LLaVA checkpoint"
            )

    def __call__(self, name: str) -> torch.Tensor:
        saved = self._saved_name(name)
        assert saved is not None
        tensor = self.tensors.read(saved)
        if name not in self.layout.parameters:
            return tensor
        tensor = tensor.to(self.dtype)
        wanted = self.layout.shapes[name]
        if self.token_ids and name in self.layout.of_tokens and tensor.shape[1:] == wanted[1:]:
            tensor = with_rows(tensor, wanted[0], self.token_ids)
        if tensor.shape != wanted:
            raise UserError(
                f"{self.tensors.name_or_path}: {name} has another shape than its config.json says: "
                f"{tuple(tensor.shape)} instead of {tuple(wanted)}; restore the file that belongs to it"
            )
        if self.quantization and name in self.layout.in_decoder:
            return self.quantization.rounded(tensor)
        return tensor

    def _saved_name(self, name: str) -> str | None:
        """Return the name under which the files have a tensor: a tied one is there under any of its names, and a
        model's own names are not always those in files."""
        names = (name, *self.layout.tied[name])
        known = (each for own in names for each in (own, self.layout.in_files.get(own)) if each)
        return next((each for each in known if self.tensors.has(each)), None)


def with_rows(weight: torch.Tensor, rows: int, token_ids: list[int]) -> torch.Tensor:
    """Return embeddings with as many rows as tokens need, the new ones as in training before they were trained."""
    have = len(weight)
    if rows <= have:
        return weight
    grown = torch.empty(rows, *weight.shape[1:], dtype=weight.dtype)
    grown[:have] = weight
    fill_rows(grown, have, token_ids, keeps_known=True)
    return grown


class Int8Linear(nn.Linear):
    """A linear layer that multiplies in 8 bits, and whose weight is quantised when it is used.

    Weights that are rounded to 8 bits are not enough: bitsandbytes rounds the inputs, too.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight: Any = Int8Params(self.weight.data, requires_grad=False)
        weight = weight.to(input.device)  # quantises
        state = MatmulLtState()
        state.threshold, state.has_fp16_weights, state.is_training = OUTLIERS, False, False
        state.CB, state.SCB = weight.CB, weight.SCB
        return matmul(input, weight, bias=self.bias, state=state)


def multiply_in_8_bits(model: nn.Module, layout: Layout) -> None:
    """Put layers of 8 bits in the places of a bare model's linear layers in the decoder."""
    for name in layout.in_decoder:
        module = name.removesuffix(".weight")
        linear = model.get_submodule(module)
        assert isinstance(linear, nn.Linear)
        with torch.device("meta"):
            made = Int8Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
        model.set_submodule(module, made)
