"""Towers that run on no picture at all, so that a rank without pictures does what the others do.

CLIP's reshapes refuse a batch of size 0 ("-1 is ambiguous"). Torch hooks put one blank frame in and take its features
out again: the tower's weights are gathered and its layers run as on any rank, the projector gets a batch of size 0, and
parameters that are trained get zero gradients.
"""

from typing import Any

import torch
from torch import nn

from data.video_llava import TOWERS


def accept_empty_batches(model: nn.Module) -> None:
    """Let both towers of `model` take pixels (0, 3, H, W) and return features (0, P, D); other batches pass as ever."""
    for name, module in model.named_modules():
        if name.split(".")[-1] in TOWERS:
            BlankFrame(module)


class BlankFrame:
    """A blank frame for a batch of size 0, and for no other."""

    def __init__(self, tower: nn.Module):
        self._is_in = False
        tower.register_forward_pre_hook(self._put_in)
        tower.register_forward_hook(self._take_out)

    def _put_in(self, tower: nn.Module, args: tuple) -> tuple | None:
        (pixels,) = args
        self._is_in = len(pixels) == 0
        return (pixels.new_zeros(1, *pixels.shape[1:]),) if self._is_in else None

    def _take_out(self, tower: nn.Module, args: tuple, output: Any) -> Any:
        return _emptied(output) if self._is_in else None


def _emptied(output: Any) -> Any:
    """Return a model's output with every tensor cut to a batch of size 0, still part of the autograd graph."""
    if torch.is_tensor(output):
        return output[:0]
    if isinstance(output, dict):
        return type(output)(**{name: _emptied(value) for name, value in output.items()})
    return tuple(map(_emptied, output)) if isinstance(output, tuple) else output
