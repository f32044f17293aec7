"""The first thing that a process of a run does, before imports that take seconds."""

import ctypes
import os
import signal
import sys

from data.command import ERRORS, is_first_rank, leave_at_ctrl_c, num_cores, num_processes_here
from data.errors import UserError
from data.isolation.signals import let_signals_through

FROM_CHECKPOINT = "continues from the last checkpoint"  # what the same command does after a process was lost
FEW = 2  # processes that any machine may try
PR_SET_PDEATHSIG = 1  # linux/prctl.h: the signal that a process gets when the one that started it dies


def refuse_crowd() -> None:
    """Raise UserError where a launcher was given a file for GPUs, and there are none: so many processes would train on
    a few cores. accelerate does not hand on what its file says of CPUs."""
    number, cores = num_processes_here(), num_cores()
    if number <= max(cores, FEW):
        return
    import torch  # seconds, which the usual run spends elsewhere

    if not torch.accelerator.is_available():
        raise UserError(
            f"{number} processes were launched here, and there is no GPU and {cores} of the CPU's cores; launch with "
            f"accelerate_configs/cpu.yaml, or with --num_processes {FEW} to try several"
        )


def begin() -> None:
    """Leave in one line at Ctrl-C; save and leave when the process that started the ranks is no more (on Linux)."""
    leave_at_ctrl_c()
    if ERRORS in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    let_signals_through()
    if ERRORS not in os.environ and is_first_rank():  # else `reeltune train` has said so
        print("loading libraries", flush=True)
