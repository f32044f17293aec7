"""The settings of a saved adapter, checked before PEFT acts on them: adapters come from strangers."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from peft import LoraConfig

from data.checkpoint_files import CODE_KEYS
from data.errors import UserError
from data.untrusted import refusal_of_patterns

MAX_RANK = 4096  # the width of a 7B model's layers: a larger rank says nothing more
MAX_TOKENS = 2**18  # the largest vocabularies have as many: the embeddings grow to the largest id
MODEL_CLASS = "VideoLlavaForConditionalGeneration"
# What PEFT may be told about the matrices. Its other settings import a module (megatron_core), build another model
# (layer_replication), read files or data (corda, eva, loftq, lora_ga), or are for other kinds of models.
KNOWN = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save", "bias", "lora_bias"),
    *("use_dora", "use_rslora", "init_lora_weights", "fan_in_fan_out", "rank_pattern", "alpha_pattern"),
    *("layers_to_transform", "layers_pattern", "target_parameters", "trainable_token_indices"),
    *("peft_type", "task_type", "peft_version", "inference_mode", "base_model_name_or_path", "revision"),
    *("auto_mapping", "ensure_weight_tying"),
}
# PEFT's ways to begin that leave the base's weights as they are; the others take a part of them out, and what they save
# stands on that residual.
INITS_BESIDE_BASE = (True, False, "gaussian", "orthogonal", "eva", None)
TEXTS = ("base_model_name_or_path", "revision", "task_type", "peft_version", "bias")


def check_adapter_settings(where: str, settings: Mapping[str, Any]) -> None:
    """Raise UserError for an adapter that names code, or asks PEFT for more than matrices beside linear layers.

    where: how the message begins, such as the folder and the name of the file.
    """
    if settings.get("peft_type") != "LORA":
        raise _refuse(where, "peft_type", settings.get("peft_type"), "only 'LORA' adapters are loaded")
    if (found := CODE_KEYS & settings.keys()) and any(settings[key] for key in found):
        raise _refuse(where, min(found), settings[min(found)], "no code of an adapter is ever run")
    _check_auto_mapping(where, settings.get("auto_mapping"))
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(LoraConfig)
        if field.default is not MISSING or field.default_factory is not MISSING
    }
    for name, value in settings.items():
        if name in defaults and name not in KNOWN and value and value != defaults[name]:
            raise _refuse(where, name, value, "this setting of PEFT is not supported")
    for name in TEXTS:
        if not isinstance(settings.get(name), str | None):
            raise _refuse(where, name, settings[name], "it must be a text")
    _check_ranks(where, settings)
    _check_token_indices(where, settings.get("trainable_token_indices"))
    for name in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
        value = settings.get(name)
        names = value if isinstance(value, list) else [value] if value is not None else []
        if not all(isinstance(each, str) and each for each in names):
            raise _refuse(where, name, value, "it must be a pattern or a list of names")


def check_patterns(where: str, settings: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise UserError where a pattern of an adapter would take for ever on the names of a model's modules."""
    patterns = [value for key in ("target_modules", "exclude_modules") if isinstance(value := settings.get(key), str)]
    patterns += [pattern for key in ("rank_pattern", "alpha_pattern") for pattern in settings.get(key) or {}]
    layers = settings.get("layers_pattern")
    patterns += [layers] if isinstance(layers, str) else layers or []
    if patterns and (reason := refusal_of_patterns(patterns, names)) is not None:
        raise UserError(f"{where}: its patterns cannot be used: {reason}")


def _check_auto_mapping(where: str, value: Any) -> None:
    """Let pass what PEFT writes of a Video-LLaVA: the name of its class, in transformers."""
    if not value:
        return
    library = value.get("parent_library") if isinstance(value, dict) else None
    if not (isinstance(library, str) and library.split(".")[0] == "transformers"):
        raise _refuse(where, "auto_mapping", value, "it names code, and no code of an adapter is ever run")
    if value.get("base_model_class") != MODEL_CLASS:
        raise _refuse(where, "auto_mapping", value, f"it must be for a {MODEL_CLASS}")


def _check_ranks(where: str, settings: Mapping[str, Any]) -> None:
    patterns = [settings.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    if not all(isinstance(pattern, dict) for pattern in patterns):
        raise _refuse(where, "rank_pattern", patterns, "it must have a number for each pattern")
    for name, value in [("r", settings.get("r", 8)), *patterns[0].items()]:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_RANK:
            raise _refuse(where, name, value, f"a rank is a number from 1 to {MAX_RANK}")
    for name, value in [("lora_alpha", settings.get("lora_alpha", 8)), *patterns[1].items()]:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _refuse(where, name, value, "it must be a number")


def _check_token_indices(where: str, value: Any) -> None:
    """Let pass lists of ids for the embeddings and the head: matrices grow to the largest."""
    lists = list(value.values()) if isinstance(value, dict) else [] if value is None else [value]
    names = set(value) if isinstance(value, dict) else set()
    are_ids = all(
        isinstance(ids, list) and ids and all(type(each) is int and 0 <= each < MAX_TOKENS for each in ids)
        for ids in lists
    )
    if not are_ids or not names <= {"embed_tokens", "lm_head"} or any(len(set(ids)) < len(ids) for ids in lists):
        raise _refuse(where, "trainable_token_indices", value, f"it must list ids below {MAX_TOKENS}, each once")


def _refuse(where: str, name: str, value: Any, reason: str) -> UserError:
    shown = repr(value)
    return UserError(f"{where}: {name} is {shown if len(shown) <= 80 else shown[:77] + '...'}; {reason}")
