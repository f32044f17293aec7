"""What lies in a folder or on the hub, an adapter or a full model, and loading it for answering or merging."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HfHubHTTPError
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, VideoLlavaProcessor

from data.errors import UserError
from data.video_llava import complete_processor, load_processor
from train.model import load_model
from train.recipe_yaml import read_recipe

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Artifact:
    """An adapter or a full model. `base` and `revision` are where the full weights are; `recipe` holds the plain
    values of the recipe.yaml beside it, {} without one."""

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
        return str(self.config.dtype or torch.float32).removeprefix("torch.")


def open_artifact(name_or_path: str, base: str | None = None) -> Artifact:
    """See what `name_or_path` is, without loading a weight; `base` replaces the base that an adapter names.

    Raises UserError for what is neither an adapter nor a Video-LLaVA, and for an adapter whose base is missing.
    """
    recipe_file = find_file(name_or_path, "recipe.yaml")
    recipe = read_recipe(recipe_file) if recipe_file else {}
    is_adapter = find_file(name_or_path, ADAPTER_CONFIG) is not None
    if not is_adapter:
        if base is not None:
            raise UserError(f"{name_or_path} is no adapter ({describe(name_or_path)}), so --base has no meaning")
        if find_file(name_or_path, "config.json") is None:
            raise UserError(f"{name_or_path} is neither an adapter nor a model: {describe(name_or_path)}")
        return Artifact(name_or_path, False, name_or_path, None, _read_config(name_or_path, None), recipe)
    try:
        adapter = PeftConfig.from_pretrained(name_or_path)
    except (ValueError, TypeError, KeyError) as problem:
        raise UserError(f"{name_or_path}/{ADAPTER_CONFIG} cannot be read: {one_line(problem)}") from problem
    where, revision = (base, None) if base else (adapter.base_model_name_or_path, adapter.revision)
    if not where or find_file(where, "config.json", revision) is None:
        found = f"{where!r} is not here" if where else f"{ADAPTER_CONFIG} names none"
        raise UserError(f"{name_or_path} is an adapter and its base model is missing: {found}; give it with --base")
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
    """What is there instead of an adapter or a model, in a few words."""
    path = Path(name_or_path)
    if not path.exists():
        return "no such folder, nor a model on the hub that can be reached"
    if path.is_file():
        return "a file, not a folder"
    if (path / "config.json").is_file():
        return "a full model"
    names = sorted(entry.name for entry in path.iterdir())
    if checkpoints := [name for name in names if name.startswith("checkpoint-")]:
        return f"an unfinished run; give one of its checkpoints, such as {path / checkpoints[-1]}"
    return f"a folder with {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else "an empty folder"


def load(artifact: Artifact, *, dtype: str = "auto", quantization: str | None = None):
    """(model, processor), ready to answer: in eval mode, on the GPU if there is one, an adapter on top of its base.

    `dtype` "auto" is that of the saved weights; `quantization` (nf4, fp4, int8) is of the decoder alone.
    """
    model = load_model(
        artifact.base,
        revision=artifact.revision,
        dtype=artifact.dtype if dtype == "auto" else dtype,
        quantization=quantization,
    )
    processor = processor_of(artifact)
    model.generation_config = greedy(processor.tokenizer)
    if artifact.is_adapter:
        model = add_saved_adapter(model, artifact)
    if torch.cuda.is_available() and quantization is None:  # quantised weights are placed when they are loaded
        model = model.to("cuda")
    return model.eval(), processor


def add_saved_adapter(model, artifact: Artifact) -> PeftModel:
    """Put a saved adapter on its base. PEFT only warns about matrices that do not find a place: here it is an error."""
    try:
        weights = find_file(artifact.name_or_path, ADAPTER_WEIGHTS)
        if weights is None:
            raise UserError(f"{artifact.name_or_path} has no {ADAPTER_WEIGHTS}: was its saving interrupted?")
        with safe_open(weights, framework="pt") as file:
            saved = set(file.keys())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(model, artifact.name_or_path)
    except (SafetensorError, RuntimeError, ValueError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(
            f"{artifact.name_or_path} does not fit its base {artifact.base}: {one_line(problem)}"
        ) from problem
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if saved != expected:
        example = min(saved ^ expected)
        raise UserError(
            f"{artifact.name_or_path} does not fit its base {artifact.base}: {len(saved - expected)} of its matrices "
            f"have no place and {len(expected - saved)} places got none, such as {example}; give the base it was "
            "trained on with --base"
        )
    return model


def processor_of(artifact: Artifact) -> VideoLlavaProcessor:
    """The processor saved with the artifact, else that of its base."""
    if find_file(artifact.name_or_path, "tokenizer_config.json") is None:
        return load_processor(artifact.base, artifact.revision)[0]
    processor = VideoLlavaProcessor.from_pretrained(artifact.name_or_path)
    complete_processor(processor, artifact.config)
    return processor


def greedy(tokenizer) -> GenerationConfig:
    """Greedy decoding that stops at the EOS that training taught. Checkpoints come with sampling settings, lengths
    and ids of other tokenizers, which make `generate` warn, run on, or refuse to be saved."""
    return GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def one_line(problem: Exception) -> str:
    """An exception's text as a single line."""
    return " ".join(str(problem).split()) or type(problem).__name__


def _read_config(name_or_path: str, revision: str | None) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError, KeyError) as problem:
        raise UserError(f"{name_or_path}/config.json cannot be read: {one_line(problem)}") from problem
    if config.model_type != "video_llava":
        raise UserError(f"{name_or_path} is a {config.model_type!r} model, not a 'video_llava'")
    return config
