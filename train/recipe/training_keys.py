"""The keys of the recipe's `training:` section: transformers.TrainingArguments by their own names, nothing renamed.

They are those of the installed transformers. Importing it takes ten seconds, too long for a word about a typing error:
they are read from a file, and from transformers itself only where its version is not the file's.
"""

import json
from functools import reduce
from importlib.metadata import version
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from train.recipe.entries import Count, FilePath
from train.recipe.keys import Harmless
from train.recipe.recomputation import DESCRIPTION, KEYS

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
    "enable_jit_checkpoint": "is always on: SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint; remove it",
    "local_rank": "is set by `accelerate launch`; remove it",
    "deepspeed": "belongs to the accelerate config file: see accelerate_configs/zero2.yaml",
    "fsdp": "belongs to the accelerate config file: see accelerate_configs/fsdp2.yaml",
    "fsdp_config": "belongs to the accelerate config file: see accelerate_configs/fsdp2.yaml",
}

# Arguments that keep one value, because a guarantee needs it or because another would have no effect here.
_NO_METRICS = "what is measured says metric in data.eval; remove it"
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

# What may change between a run and its continuation: where and what it reports, keeps and loads with. The evaluation
# before the first step decides nothing.
HARMLESS = {
    "output_dir", "run_name", "report_to", "project", "disable_tqdm", "save_steps", "save_strategy", "save_total_limit",
    "eval_on_start", "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers",
    "dataloader_pin_memory",
}  # fmt: skip
HARMLESS_PREFIXES = ("logging_", "log_", "hub_", "push_to_hub", "trackio_", "include_num", "ddp_timeout")


# The smallest and largest values of numbers that transformers, or what it hands them to, refuses late or not at all.
LARGEST_SEED = 2**32 - 1  # numpy's
BOUNDS: dict[str, dict[str, Any]] = {
    "num_train_epochs": {"gt": 0},
    "learning_rate": {"gt": 0},
    "warmup_steps": {"ge": 0},
    "per_device_train_batch_size": {"ge": 1},
    "per_device_eval_batch_size": {"ge": 1},
    "seed": {"ge": 0, "le": LARGEST_SEED},
    "dataloader_num_workers": {"ge": 0},
    "dataloader_prefetch_factor": {"ge": 1},
    "neftune_noise_alpha": {"ge": 0},
    "max_grad_norm": {"ge": 0},
    "weight_decay": {"ge": 0},
    "logging_steps": {"gt": 0},
    "eval_steps": {"gt": 0},
    "save_steps": {"gt": 0},
    "ddp_timeout": {"gt": 0},
    "ddp_bucket_cap_mb": {"gt": 0},
}


COMPILES = ("torch_compile", "torch_compile_backend", "torch_compile_mode")  # each of them does
WORKERS = "dataloader_num_workers"
OF_WORKERS = (
    "Processes beside each process that trains, which decode ahead of it; auto takes as many as keep up with it, from "
    "the time that some rows take here and the estimated time of a step. Rows are the same whatever their number is."
)

KEPT = Path(__file__).with_suffix(".json")  # written by scripts/write_schema.py
PLAIN = {"boolean": bool, "integer": int, "number": float, "string": str, "null": None}


def _arguments() -> dict[str, dict[str, Any]]:
    """Return the JSON schema of every argument, with its `description`."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    if kept["transformers"] == version("transformers"):
        return kept["arguments"]
    from train.recipe.derived_keys import describe_arguments

    return describe_arguments(SET_ELSEWHERE)


def type_of(schema: dict[str, Any]) -> Any:
    """Return the Python type that has such a JSON schema, without its description."""
    if "anyOf" in schema:
        return reduce(or_, map(type_of, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        # pyrefly: ignore[invalid-literal]: built at run time
        return Literal[tuple(schema.get("enum") or [schema["const"]])]
    if schema["type"] == "array":
        return list[type_of(schema["items"])]  # pyrefly: ignore[invalid-annotation]: built at run time
    if schema["type"] == "object":
        values = schema.get("additionalProperties", True)
        return dict if values is True else dict[str, type_of(values)]  # pyrefly: ignore[invalid-annotation]
    return PLAIN[schema["type"]]


def _key_types() -> dict[str, Any]:
    """Return the type of every key, with its description and whether it is harmless."""
    types: dict[str, Any] = {}
    for name, schema in _arguments().items():
        kind = type_of(schema)
        types[name] = Annotated[kind, Field(description=schema["description"])]
        if name in HARMLESS or name.startswith(HARMLESS_PREFIXES):
            types[name] = Annotated[types[name], Harmless()]
    for name in types.keys() & set(KEYS):
        types[name] = Annotated[bool | Literal["selective"] | None, Field(description=DESCRIPTION)]
    for name, bounds in BOUNDS.items():
        types[name] = Annotated[types[name], Field(**bounds)]
    # 0 would save what nobody has trained.
    types["max_steps"] = Annotated[Literal[-1] | Count, Field(description=_arguments()["max_steps"]["description"])]
    number = types[WORKERS]
    types[WORKERS] = Annotated[number | Literal["auto"], Field(description=OF_WORKERS)]
    types["output_dir"] = Annotated[FilePath, Field(description="Folder of the run and its checkpoints."), Harmless()]
    return types


TRAINING_KEYS = _key_types()
if TYPE_CHECKING:
    TrainingSection = dict[str, Any]  # a type checker cannot follow keys that are read from a dataclass
else:
    required = {"output_dir": Required[TRAINING_KEYS["output_dir"]]}
    TrainingSection = TypedDict("TrainingSection", {**TRAINING_KEYS, **required}, total=False)
    TrainingSection.__doc__ = "Arguments of transformers.TrainingArguments, by their own names."
    TrainingSection.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
