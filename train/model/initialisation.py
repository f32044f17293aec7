"""LoRA matrices that begin somewhere in particular, on a base that stays what it is.

PEFT's `pissa` and `olora` begin with A0 and B0, made from the principal part of a weight W, and take s B0 A0 out of W.
What they save stands on that residual, which nobody else has: loading makes it anew, from another random SVD or from
weights that are quantised anew. Here W stays, and the adapter has twice the rank:

    W x + s (B A - B0 A0) x    with A and B beginning at A0 and B0

The first half is trained, with the gradients that it has in PEFT's form; the second is constant. Saved, it is an
ordinary adapter of an untouched base, for whoever loads, merges or continues it. (Weight decay shrinks both halves.)
"""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
from bitsandbytes.nn import Int8Params, Params4bit
from peft.tuners.lora import LoraLayer
from torch import nn

from data.errors import UserError

ADAPTER = "default"  # PEFT's name for the only adapter
PISSA_NITER = "pissa_niter_"
ORTHOGONAL_SCALE = 0.1  # PEFT's


def begins_at_weights(init: bool | str) -> bool:
    """Tell whether the matrices begin at a part of the weights, so that the adapter has two halves."""
    return isinstance(init, str) and (init == "olora" or init.startswith("pissa"))


def begin_at_weights(model: nn.Module, init: str, rank: int) -> None:
    """Set both halves of every adapter of rank 2 * `rank`, and keep the second from being trained."""
    for layer in _layers(model):
        down, up = _matrices(layer)
        first_down, first_up = _principal(_weight(layer), init, rank, layer.scaling[ADAPTER])
        with torch.no_grad():
            down.copy_(torch.cat([first_down, first_down], dim=0))
            up.copy_(torch.cat([first_up, -first_up], dim=1))
        _train_first(down, rank, dim=0)
        _train_first(up, rank, dim=1)


def begin_orthogonal(model: nn.Module, rank: int) -> None:
    """Draw matrices whose product is zero, as PEFT's `orthogonal` does, which fails on quantised weights."""
    for layer in _layers(model):
        down, up = _matrices(layer)
        basis, _ = torch.linalg.qr(torch.randn(rank, rank))
        with torch.no_grad():
            down.copy_((torch.randn(down.shape[1], rank // 2) @ basis[0::2]).T * ORTHOGONAL_SCALE)
            up.copy_(torch.randn(up.shape[0], rank // 2) @ basis[1::2] * ORTHOGONAL_SCALE)


def _layers(model: nn.Module) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _matrices(layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    """Return A (rank, in) and B (out, rank)."""
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    assert isinstance(down, nn.Parameter) and isinstance(up, nn.Parameter)
    return down, up


def _weight(layer: LoraLayer) -> torch.Tensor:
    """Return the base layer's weight, (out, in), in float32, and leave the layer as it is."""
    base: Any = layer.get_base_layer()
    weight = base.weight
    if isinstance(weight, Params4bit):
        return dequantize_4bit(weight.data, weight.quant_state).float()
    if isinstance(weight, Int8Params):
        scales = base.state.SCB if weight.SCB is None else weight.SCB  # they move in the first forward pass
        return int8_vectorwise_dequant(weight.data, scales).float()
    return weight.detach().float()


def _principal(weight: torch.Tensor, init: str, rank: int, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A0 (r, in) and B0 (out, r), with PEFT's formulas."""
    if rank > min(weight.shape):
        raise UserError(
            f"lora.r: {init} takes at most {min(weight.shape)}, the rank of the smallest weight, not {rank}"
        )
    if init == "olora":
        orthogonal, upper = torch.linalg.qr(weight)
        return upper[:rank], orthogonal[:, :rank]
    if init.startswith(PISSA_NITER):
        left, values, right = torch.svd_lowrank(weight, rank, niter=int(init.removeprefix(PISSA_NITER)))
        right = right.T
    else:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
    roots = (values[:rank] / scaling).sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots


def _train_first(parameter: nn.Parameter, rank: int, dim: int) -> None:
    """Let a parameter's gradient be zero behind its first `rank` places in `dim`."""

    def mask(gradient: torch.Tensor) -> torch.Tensor:
        first, second = gradient.split(rank, dim)
        return torch.cat([first, torch.zeros_like(second)], dim)

    parameter.register_hook(mask)
