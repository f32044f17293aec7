"""What lies in a folder or on the hub: an adapter or a full model, its base, and the recipe it was trained
by."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from transformers import AutoConfig, PreTrainedConfig

from data.errors import UserError
from train.recipe.yaml_text import read_recipe

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Artifact:
    """An adapter or a full model. `base` and `revision` are where the full weights are, `config` is theirs;
    `recipe` holds the plain values of the recipe.yaml beside it, {} without one."""

    name_or_path: str
    is_adapter: bool
    base: str
    revision: str | None
    config: PreTrainedConfig
    recipe: dict = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        """Frames of a clip, as in training; Video-LLaVA's 8 where no recipe says."""
        return self.recipe.get("data", {}).get("num_frames", 8)

    @property
    def system_prompt(self) -> str | None:
        return self.recipe.get("data", {}).get("system_prompt")

    @property
    def dtype(self) -> str:
        """The number type of the full weights as saved: "float32", "bfloat16", "float16"."""
        return str(self.config.dtype or "float32").removeprefix("torch.")


def open_artifact(name_or_path: str, base: str | None = None) -> Artifact:
    """See what `name_or_path` is, without loading a weight; `base` replaces the base that an adapter names.

    Raises UserError for what is neither an adapter nor a Video-LLaVA, and for an adapter whose base is
    missing.
    """
    recipe_file = find_file(name_or_path, RECIPE)
    recipe = read_recipe(recipe_file) if recipe_file else {}
    adapter_file = find_file(name_or_path, ADAPTER_CONFIG)
    if adapter_file is None:
        if find_file(name_or_path, "config.json") is None:
            raise UserError(f"{name_or_path} is neither an adapter nor a model: {describe(name_or_path)}")
        if base is not None:
            raise UserError(f"{name_or_path} is a full model: leave --base {base} out, it is for adapters")
        return Artifact(name_or_path, False, name_or_path, None, _read_config(name_or_path, None), recipe)
    adapter = read_json(adapter_file)
    where, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    if base is not None:
        where, revision = base, None
    if not where or find_file(where, "config.json", revision) is None:
        found = f"{where!r} is not here" if where else f"its {ADAPTER_CONFIG} names none"
        raise UserError(f"{name_or_path}: the base model of this adapter is missing ({found}); give it with --base")
    return Artifact(name_or_path, True, where, revision, _read_config(where, revision), recipe)


def find_file(name_or_path: str, filename: str, revision: str | None = None) -> Path | None:
    """A file of a local folder or of a hub repository (downloaded, or cached when offline); None if not there."""
    if Path(name_or_path).exists():
        path = Path(name_or_path, filename)
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name_or_path, filename, revision=revision))
    except (EntryNotFoundError, HFValidationError):
        return None  # not in the repository; not reachable and not cached; no name that the hub could know
    except HfHubHTTPError as problem:
        raise UserError(f"{name_or_path}: no such folder, and the hub says: {one_line(problem)}") from problem


def describe(name_or_path: str) -> str:
    """What is there instead of what was wanted, in a few words."""
    path = Path(name_or_path)
    if not path.exists():
        return "no such folder, and no such model on the hub or in its cache"
    if path.is_file():
        return "a file, not a folder"
    if (path / "config.json").is_file():
        return "a full model"
    names = sorted(entry.name for entry in path.iterdir())
    if checkpoints := [name for name in names if name.startswith("checkpoint-")]:
        return f"an unfinished run; its checkpoints can be used, such as {path / checkpoints[-1]}"
    return f"a folder with {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else "an empty folder"


def read_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise UserError(f"{file} is damaged: not JSON ({one_line(problem)})") from problem
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object")
    return content


def one_line(problem: Exception) -> str:
    """An exception's text as a single line."""
    return " ".join(str(problem).split()) or type(problem).__name__


def _read_config(name_or_path: str, revision: str | None) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError, KeyError) as problem:
        raise UserError(f"{name_or_path}: its config.json cannot be read: {one_line(problem)}") from problem
    if config.model_type != "video_llava":
        raise UserError(f"{name_or_path} is a {config.model_type!r} model, not a 'video_llava'")
    return config
