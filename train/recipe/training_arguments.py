"""A recipe's `training:` section -> transformers.TrainingArguments, tried out."""

import warnings
from typing import Any

import torch
from transformers import TrainingArguments

from data.errors import UserError
from train.ranks.processes import cpu_processes
from train.recipe.late_arguments import try_late_arguments
from train.recipe.recomputation import without_selective
from train.recipe.training_keys import WORKERS


def device_defaults(dtype: str) -> dict[str, Any]:
    """Return what follows from the machine and the model's number type: mixed precision for half-precision weights, and
    the CPU where nothing faster is visible."""
    has_accelerator = torch.accelerator.is_available()
    return {
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        "dataloader_pin_memory": has_accelerator,
        "ddp_find_unused_parameters": False,  # all trained parameters are used in every batch: see `empty_pixels`
        **({} if has_accelerator else cpu_processes()),
    }


def make_training_arguments(dtype: str, section: dict[str, Any]) -> TrainingArguments:
    """Build them for a model in such numbers, and try what transformers would look at late. Raises UserError."""
    args = build_training_arguments({**device_defaults(dtype), **section})
    try_late_arguments(args)
    return args


def build_training_arguments(section: dict[str, Any]) -> TrainingArguments:
    """Build TrainingArguments, which looks at the devices. Raises UserError for what it does not accept."""
    try:
        with warnings.catch_warnings():  # 5.23 renamed `gradient_checkpointing`, 5.17 has no other name for it
            warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)
            return TrainingArguments(**without_auto(without_selective(section)))
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise UserError(f"training: transformers refuses these settings: {' '.join(str(error).split())}") from error


def without_auto(section: dict[str, Any]) -> dict[str, Any]:
    """Return the section as transformers knows it: until the number of workers is chosen, there is one."""
    return {**section, WORKERS: 1} if section.get(WORKERS) == "auto" else section
