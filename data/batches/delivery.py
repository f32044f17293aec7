"""Batches on their way from a worker to the process that trains, none of which may be lost.

A data loader's worker hands a batch to a thread that moves its tensors to shared memory and pickles it. Where that
fails, because /dev/shm is full (docker gives it 64 MB) or too many files are open, the thread drops the batch, and the
process that trains waits for it for ever. So a batch is moved and pickled here, before that thread gets it; where it
does not fit, its bytes go through the worker's pipe, which takes longer.
"""

import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data import get_worker_info

logger = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"  # where Linux keeps the files of shm_open, which torch calls
_told: Any = None  # a number that the workers of a loader share: whether the user knows


@dataclass(frozen=True)
class Parcel:
    """A pickled batch. The process that receives it gets the batch itself."""

    content: bytes

    def __reduce__(self) -> tuple:
        return pickle.loads, (self.content,)


def tell_once(told: Any) -> None:
    """Set the number (0 or 1) that all workers of a loader share, so that one of them tells what takes longer."""
    global _told
    _told = told


def delivered(batch: Any) -> Any:
    """Pack a batch that a worker returns. Outside of a worker, return it as it is."""
    if get_worker_info() is None:
        return batch
    try:
        for tensor in batch.values() if isinstance(batch, Mapping) else ():
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                tensor.share_memory_()
        return Parcel(bytes(ForkingPickler.dumps(batch)))
    except (OSError, RuntimeError) as problem:  # torch's is a RuntimeError
        _remove_leftovers()
        _tell(problem)
        return Parcel(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL))  # by value


def _remove_leftovers() -> None:
    """Remove the file that torch 2.14 leaves behind when it finds no room. Those in use have no name any more."""
    for path in glob(f"{SHARED_MEMORY}/torch_{os.getpid()}_*"):
        os.unlink(path)


def _tell(problem: Exception) -> None:
    if _told is not None and not _told.value:
        _told.value = 1
        logger.warning(
            f"workers cannot share memory ({problem}): batches go through pipes, which takes longer; give "
            f"{SHARED_MEMORY} more room (docker run --shm-size=8g), or use fewer workers"
        )
