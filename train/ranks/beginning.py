"""The first thing that a process of a run does, before imports that take seconds."""

import ctypes
import os
import signal
import sys

from data.command import ERRORS, is_first_rank, leave_at_ctrl_c
from data.isolation.signals import let_signals_through

FROM_CHECKPOINT = "continues from the last checkpoint"  # what the same command does after a process was lost
PR_SET_PDEATHSIG = 1  # linux/prctl.h: the signal that a process gets when the one that started it dies


def begin() -> None:
    """Leave in one line at Ctrl-C; save and leave when the process that started the ranks is no more (on Linux)."""
    leave_at_ctrl_c()
    if ERRORS in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    let_signals_through()
    if ERRORS not in os.environ and is_first_rank():  # else `reeltune train` has said so
        print("loading libraries", flush=True)
