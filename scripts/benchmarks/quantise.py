"""The decoder of a random model in 4 bits, made where it is: no checkpoint is loaded."""

from bitsandbytes.nn import Linear4bit, Params4bit
from torch import nn


def quantise(decoder: nn.Module) -> None:
    """Put every linear layer into nf4 with quantised scales, one after the other, as the QLoRA recipe loads it."""
    for name, linear in [(name, each) for name, each in decoder.named_modules() if isinstance(each, nn.Linear)]:
        weight = linear.weight.data
        layer = Linear4bit(
            linear.in_features, linear.out_features, bias=False, compute_dtype=weight.dtype, quant_type="nf4",
            device="meta",
        )  # fmt: skip
        del linear.weight
        # pyrefly: ignore[unexpected-keyword] Params4bit takes them in __new__
        layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
        layer = layer.to(weight.device)
        parent, _, leaf = name.rpartition(".")
        setattr(decoder.get_submodule(parent), leaf, layer)
