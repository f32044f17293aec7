"""A checkpoint's small files, looked at before any library acts on them: they come from strangers.

transformers runs Python files of a checkpoint when its settings name some and a person, or a program that answers for
one, says yes. So settings that do are refused here, and libraries are told never to ask.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from data.errors import UserError, one_line

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
MODEL_TYPE = "video_llava"
MODEL_FILES = (CONFIG, "generation_config.json")
PROCESSOR_FILES = (
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"),
)
# Keys with which a file of settings names code: classes, pipelines, quantisers and ways to generate of its own.
CODE_KEYS = {"auto_map", "custom_pipelines", "custom_pipeline", "custom_generate", "trust_remote_code"}
MAX_JSON = 64 * 2**20  # bytes; the largest tokenizer.json of known models has a third of it
DTYPES = ("float32", "bfloat16", "float16")
# The largest sizes that a checkpoint may name, many times those of any Video-LLaVA: what is beyond would fill the
# memory before a weight is read.
BOUNDS = {
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1024),
    **dict.fromkeys(("hidden_size", "intermediate_size", "projection_dim", "head_dim"), 2**18),
    **dict.fromkeys(("image_size", "patch_size", "height", "width", "shortest_edge", "longest_edge"), 4096),
    **dict.fromkeys(("vocab_size",), 2**22),
}


def find_file(name_or_path: str, filename: str, revision: str | None = None) -> Path | None:
    """Return a file of a local folder or of a hub repository (downloaded, or cached when offline), None without it."""
    if Path(name_or_path).exists():
        path = Path(name_or_path, filename)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name_or_path, filename, revision=revision))
    except (EntryNotFoundError, HFValidationError):
        return None  # not in the repository; not reachable and not cached; no name that the hub could know
    except HfHubHTTPError as problem:
        raise UserError(f"{name_or_path}: no such folder, and the hub says: {one_line(problem)}") from problem


def read_json(file: Path) -> dict:
    """Return a file's JSON object; UserError for anything else, and for a file that is too large to be one."""
    try:
        with open(file, "rb") as opened:
            text = opened.read(MAX_JSON + 1)
        if len(text) > MAX_JSON:
            raise UserError(f"{file} is damaged: it has more than {MAX_JSON // 2**20} MiB")
        content = json.loads(text.decode("utf-8"))
    except OSError as problem:
        raise UserError(f"{file}: cannot be read: {problem.strerror}") from problem
    except RecursionError as problem:
        raise UserError(f"{file} is damaged: it is nested too deeply") from problem
    except ValueError as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{file} is damaged: not JSON ({one_line(problem)})") from problem
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object")
    return content


def check_model_files(name_or_path: str, revision: str | None = None) -> None:
    """Raise UserError for a model that names code, is no Video-LLaVA, or claims sizes that no model has.

    Where there is no config.json, or no model at all, whoever loads it has the words for that.
    """
    config = check_files(name_or_path, revision, MODEL_FILES).get(CONFIG)
    if config is None:
        if (adapter := find_file(name_or_path, ADAPTER_CONFIG, revision)) is not None:
            base = read_json(adapter).get("base_model_name_or_path")
            raise UserError(
                f"{name_or_path} is an adapter, and no model; to train it on, give its base here"
                f"{f' ({base})' if isinstance(base, str) and base else ''} and the adapter as lora.start_from"
            )
        return
    if config.get("model_type") != MODEL_TYPE and "model_type" in config:
        found = one_line(ValueError(repr(config["model_type"])[:80]))
        raise UserError(f"{name_or_path} is a {found} model; reeltune takes {MODEL_TYPE!r} checkpoints")
    if find_file(name_or_path, ADAPTER_CONFIG, revision) is not None:
        raise UserError(
            f"{name_or_path} has {ADAPTER_CONFIG} beside {CONFIG}: transformers would put that adapter on the model; "
            "move one of them elsewhere"
        )


def check_processor_files(name_or_path: str, revision: str | None = None) -> None:
    """Raise UserError for a processor whose files name code, are damaged, or claim sizes that no picture has."""
    check_files(name_or_path, revision, PROCESSOR_FILES)


def check_files(name_or_path: str, revision: str | None, names: tuple[str, ...]) -> dict[str, dict]:
    """Return the content of those of the files that are there."""
    found = {name: file for name in names if (file := find_file(name_or_path, name, revision)) is not None}
    contents = {name: read_json(file) for name, file in found.items()}
    for name, content in contents.items():
        if name != "tokenizer.json":  # its keys are tokens
            check_settings(f"{name_or_path}: {name}", content)
    return contents


def check_settings(where: str, settings: Mapping) -> None:
    """Raise UserError where settings, at any depth, name code or a number that is out of all bounds."""
    for key, value in _items(settings):
        if key in CODE_KEYS and value:
            raise UserError(
                f"{where} names code of its own ({key}), and no code of a checkpoint is ever run; take one that "
                "transformers' own classes load"
            )
        if key in ("dtype", "torch_dtype") and value is not None and value not in DTYPES:
            raise UserError(f"{where}: {key} must be one of {', '.join(DTYPES)}, got {str(value)[:80]!r}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and key in BOUNDS and not 0 <= value <= BOUNDS[key]:
            raise UserError(f"{where}: {key} is {value:.6g}; it is damaged, or was made to fill the memory")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of a JSON value, at any depth, with what it has."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield from each.items()
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
