"""The processes of a run: how they find each other, and what all of them must do together."""

import os
from typing import Any

from accelerate import Accelerator
from transformers import TrainingArguments

from data.dataset import RowDataset
from data.errors import UserError


def num_launched() -> int:
    """Processes that the launcher started, on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def uses_deepspeed() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("true", "1")


def cpu_processes() -> dict[str, Any]:
    """Arguments of `TrainingArguments` for a run without an accelerator; set before anything imports DeepSpeed.

    Without `use_cpu` several processes would train apart, unconnected; with it DeepSpeed would be switched off.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    return {"use_cpu": not uses_deepspeed(), "ddp_backend": "gloo" if num_launched() > 1 else None}


def check_connected(accelerator: Accelerator) -> None:
    """Raises UserError where processes would train apart: each would report a run of its own."""
    if num_launched() > 1 and accelerator.num_processes != num_launched():
        raise UserError(
            f"{num_launched()} processes were launched but are not connected, this one sees "
            f"{accelerator.num_processes}; launch with a file of accelerate_configs/"
        )


def towers_of_all_ranks(args: TrainingArguments, *datasets: RowDataset | None) -> set[str]:
    """The kinds of media whose tower runs in every batch of every rank, whatever the batch holds.

    Where weights or gradients are spread over ranks, all of them must run the same modules in the same order: a rank
    with text alone would leave the others waiting for ever. The same towers always, because DeepSpeed fetches weights
    ahead in the order of the batch before. One process runs what a batch needs.
    """
    if args.world_size == 1:
        return set()
    return set().union(*(rows.kinds() for rows in datasets if rows is not None))
