"""The projector's own learning rate, and states that are paged again after a resume."""

import warnings
from typing import Any

import torch
from bitsandbytes.optim.optimizer import Optimizer8bit
from torch import nn

from data.video_llava import PROJECTOR


def give_projector_its_rate(optimizer: torch.optim.Optimizer, model: nn.Module, rate: float) -> None:
    """Move the projector's trained parameters into groups of their own, with the other settings of the groups they
    leave."""
    projector = {id(parameter) for name, parameter in model.named_parameters() if PROJECTOR in name.split(".")}
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in projector]
        if moved:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in projector]
            optimizer.add_param_group({**group, "params": moved, "lr": rate})


def page_states(optimizer: torch.optim.Optimizer) -> int:
    """Put loaded states of bitsandbytes' paged optimizers back into paged memory; returns the number of tensors.

    bitsandbytes 0.50 saves the states of a paged optimizer, and loads them as ordinary tensors on the GPU: a run that
    fitted because they could leave it would end without memory when it goes on.
    """
    inner: Any = getattr(optimizer, "optimizer", optimizer)  # inside accelerate's
    if not isinstance(inner, Optimizer8bit) or not inner.is_paged:
        return 0
    number = 0
    for parameter, states in inner.state.items():
        for name, loaded in list(states.items()):
            has_its_shape = isinstance(loaded, torch.Tensor) and loaded.shape == parameter.shape
            if not has_its_shape or getattr(loaded, "is_paged", False):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on a CPU nothing is paged, as the first step has told
                paged = inner.get_state_buffer(parameter, dtype=loaded.dtype)
            if getattr(paged, "is_paged", False):  # small ones are not
                states[name] = paged.copy_(loaded)
                number += 1
    return number
