"""A learning rate of the projector's own."""

import torch
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
