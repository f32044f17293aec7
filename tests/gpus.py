"""The GPUs of this machine: a run in one process refuses to choose among several, so tests see the first of them."""

import os
from collections.abc import Mapping

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
SHOWN = os.environ.get(VISIBLE)
NUMBER = torch.cuda.device_count()  # before anything has opened a device: what is set here holds then
if NUMBER > 1:
    os.environ[VISIBLE] = (SHOWN or "0").split(",")[0]


def with_all(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that show the GPUs that this process was shown, for a launcher of one process for each."""
    others = {name: value for name, value in environment.items() if name != VISIBLE}
    return others if SHOWN is None else {**others, VISIBLE: SHOWN}
