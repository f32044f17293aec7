"""The recipe's `training:` section: transformers.TrainingArguments by their own names, nothing renamed.

The section's keys and types are derived from the dataclass, so they are those of the installed transformers.
"""

import warnings
from dataclasses import fields
from enum import Enum
from functools import reduce
from operator import or_
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required, Union, get_args, get_origin, get_type_hints

import torch
from pydantic import ConfigDict, Field
from transformers import TrainingArguments
from transformers.training_args import trainer_log_levels
from typing_extensions import TypedDict

from data.errors import UserError
from train.ranks.processes import cpu_processes
from train.recipe.keys import Harmless

# What reeltune says when the recipe does not; everything else is transformers' own default.
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 1,  # one packed row, or one conversation with `packing: none`
    "per_device_eval_batch_size": 1,
    "remove_unused_columns": False,  # the collator needs all of them
    "logging_steps": 10,
    "report_to": "tensorboard",
    "save_total_limit": 2,
    "restore_callback_states_from_checkpoint": True,  # the patience of early stopping
    "seed": 42,
}

# Arguments that a recipe may not set, and where the wish belongs.
SET_ELSEWHERE = {
    "gradient_accumulation_steps": "follows from data.rows_per_step, batch size and devices; remove it",
    "auto_find_batch_size": "would change data.rows_per_step; remove it and lower data.max_tokens_per_row",
    "resume_from_checkpoint": "the recipe's own key is `resume: auto | never | FOLDER`",
    "hub_token": "would be written beside every checkpoint; use `hf auth login` or the variable HF_TOKEN",
    "parallelism_config": "belongs to the accelerate config file",
    "label_smoothing_factor": "is not part of the loss here; remove it",
    "use_liger_kernel": "would replace the loss on labelled positions; remove it",
    "enable_jit_checkpoint": "is always on: SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint; remove it",
    "local_rank": "is set by `accelerate launch`; remove it",
    "deepspeed": "belongs to the accelerate config file: see accelerate_configs/zero2.yaml",
    "fsdp": "belongs to the accelerate config file: see accelerate_configs/fsdp2.yaml",
    "fsdp_config": "belongs to the accelerate config file: see accelerate_configs/fsdp2.yaml",
}

# Arguments that keep one value, because a guarantee needs it or because another would have no effect here.
_NO_METRICS = "there are no metrics but the loss; remove it"
_OWN_ORDER = "rows have an order of their own, from training.seed; remove it"
_UPLOAD = "nothing is uploaded while training; use scripts/push_to_hub.py afterwards, which looks at what it sends"
FIXED: dict[str, tuple[Any, str]] = {
    "save_only_model": (False, "a checkpoint without the optimizer cannot be continued as if nothing had happened"),
    "ignore_data_skip": (False, "a continued run would train on rows that it has seen, and miss others"),
    "restore_callback_states_from_checkpoint": (True, "a continued run would forget the patience of early stopping"),
    "remove_unused_columns": (False, "the collator needs every column"),
    "average_tokens_across_devices": (True, "the loss is the mean over the tokens of all devices"),
    "dataloader_drop_last": (False, "every row is trained once an epoch"),
    "dataloader_in_order": (True, "a continued run needs the rows in the same order"),
    "dataloader_multiprocessing_context": (None, "how workers start follows from the devices"),
    "accelerator_config": (None, "belongs to the accelerate config file"),
    "data_seed": (None, _OWN_ORDER),
    "train_sampling_strategy": ("random", _OWN_ORDER),
    "group_by_length": (False, _OWN_ORDER),
    "label_names": (None, "labels are the assistant's words"),
    "include_for_metrics": ([], _NO_METRICS),
    "batch_eval_metrics": (False, _NO_METRICS),
    "push_to_hub": (False, _UPLOAD),
    "hub_model_id": (None, _UPLOAD),
    "hub_private_repo": (None, _UPLOAD),
    "hub_revision": (None, _UPLOAD),
    "hub_always_push": (False, _UPLOAD),
    "do_train": (False, "the command trains; remove it"),
    "do_eval": (False, "data.eval and training.eval_strategy say so; remove it"),
    "do_predict": (False, "use scripts/evaluate.py; remove it"),
}
METRICS = ("loss", "eval_loss")  # what an evaluation measures

# What may change between a run and its continuation: where and what it reports, keeps and loads with.
HARMLESS = {
    "output_dir", "run_name", "report_to", "project", "disable_tqdm", "save_steps", "save_strategy", "save_total_limit",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_pin_memory",
}  # fmt: skip
HARMLESS_PREFIXES = ("logging_", "log_", "hub_", "push_to_hub", "trackio_", "include_num", "ddp_timeout")


# The smallest and largest values of numbers that transformers, or what it hands them to, refuses late or not at all.
LARGEST_SEED = 2**32 - 1  # numpy's
BOUNDS: dict[str, dict[str, Any]] = {
    "per_device_train_batch_size": {"ge": 1},
    "per_device_eval_batch_size": {"ge": 1},
    "seed": {"ge": 0, "le": LARGEST_SEED},
    "dataloader_num_workers": {"ge": 0},
    "neftune_noise_alpha": {"ge": 0},
    "max_grad_norm": {"ge": 0},
    "weight_decay": {"ge": 0},
    "logging_steps": {"gt": 0},
    "eval_steps": {"gt": 0},
    "save_steps": {"gt": 0},
    "ddp_timeout": {"gt": 0},
    "ddp_bucket_cap_mb": {"gt": 0},
}


def _yaml_type(hint: Any) -> Any:
    """Return the type as YAML can spell it: an enum becomes the literals of its values."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Literal[tuple(member.value for member in hint)]  # pyrefly: ignore[invalid-literal]: built at run time
    if get_origin(hint) is list:
        return list[_yaml_type(get_args(hint)[0])]  # pyrefly: ignore[invalid-annotation]: built at run time
    if get_origin(hint) in (Union, UnionType):
        options = get_args(hint)
        if any(isinstance(option, type) and issubclass(option, Enum) for option in options):
            options = [option for option in options if option is not str]  # `SchedulerType | str`
        return reduce(or_, map(_yaml_type, options))
    return hint


def _key_types() -> dict[str, Any]:
    """Return the type of every key, with its description and whether it is harmless."""
    hints = get_type_hints(TrainingArguments)
    types: dict[str, Any] = {}
    for field in fields(TrainingArguments):
        if field.name not in SET_ELSEWHERE:
            about = Field(description=field.metadata.get("help"))
            kind = _yaml_type(hints[field.name])
            types[field.name] = Annotated[kind, about]
            if field.name in HARMLESS or field.name.startswith(HARMLESS_PREFIXES):
                types[field.name] = Annotated[types[field.name], Harmless()]
    for name, bounds in BOUNDS.items():
        types[name] = Annotated[types[name], Field(**bounds)]
    for name in ("log_level", "log_level_replica"):
        levels = Literal[tuple(trainer_log_levels)]  # pyrefly: ignore[invalid-literal]: built at run time
        types[name] = Annotated[levels, *types[name].__metadata__]
    types["output_dir"] = Annotated[str, Field(description="Folder of the run and its checkpoints."), Harmless()]
    return types


TRAINING_KEYS = _key_types()
if TYPE_CHECKING:
    TrainingSection = dict[str, Any]  # a type checker cannot follow keys that are read from a dataclass
else:
    required = {"output_dir": Required[TRAINING_KEYS["output_dir"]]}
    TrainingSection = TypedDict("TrainingSection", {**TRAINING_KEYS, **required}, total=False)
    TrainingSection.__doc__ = "Arguments of transformers.TrainingArguments, by their own names."
    TrainingSection.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


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


def build_training_arguments(section: dict[str, Any]) -> TrainingArguments:
    """Build TrainingArguments, which looks at the devices. Raises UserError for what it does not accept."""
    try:
        with warnings.catch_warnings():  # 5.23 renamed `gradient_checkpointing`, 5.17 has no other name for it
            warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)
            return TrainingArguments(**section)
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise UserError(f"training: transformers refuses these settings: {' '.join(str(error).split())}") from error
