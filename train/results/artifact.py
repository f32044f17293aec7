"""See what a folder or a hub repository holds: an adapter or a full model, its base and its recipe."""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedConfig

from data.checkpoint_files import ADAPTER_CONFIG, CONFIG, find_file, read_json
from data.errors import SettingError, UserError
from data.media.frame_sampling import UNIFORM, FrameSampling
from data.processor import load_config
from data.video_llava import NUM_FRAMES
from train.card.facts import RECIPE
from train.model.adapter_settings import check_adapter_settings
from train.model.fingerprint import FINGERPRINT, Fingerprint, read_fingerprint
from train.model.weight_files import ADAPTER_WEIGHTS
from train.preprocessing.contract import PREPROCESSING, Preprocessing, read_preprocessing
from train.recipe.load import read_kept_recipe

NUM_NAMES = 4  # files that a message names of a folder, so that it stays one line


@dataclass(frozen=True)
class Artifact:
    """An adapter or a full model, with all of its paths resolved.

    `base` and `revision` say where the full weights are, `config` is theirs. `adapter_weights` is None for a full
    model, `recipe_file` without a recipe.yaml; `recipe` has its plain values. `fingerprint` tells what was trained,
    None where nothing was or an earlier version did it; `preprocessing` is None likewise. `has_processor` is False
    where the processor is the base's.
    """

    name_or_path: str
    base: str
    revision: str | None
    config: PreTrainedConfig
    adapter_weights: Path | None = None
    recipe_file: Path | None = None
    recipe: dict = field(default_factory=dict)
    fingerprint: Fingerprint | None = None
    preprocessing: Preprocessing | None = None
    has_processor: bool = True

    @property
    def is_adapter(self) -> bool:
        return self.adapter_weights is not None

    @property
    def num_frames(self) -> int:
        """Return the frames of a clip, as in training; Video-LLaVA's own number where nothing says."""
        if self.preprocessing is not None:
            return self.preprocessing.num_frames
        return self.recipe.get("data", {}).get("num_frames", NUM_FRAMES)

    @property
    def sampling(self) -> FrameSampling:
        """Return how the frames of a clip are chosen; an earlier version, which kept no preprocessing, chose them
        uniformly."""
        return self.preprocessing.sampling if self.preprocessing is not None else UNIFORM

    @property
    def system_prompt(self) -> str | None:
        if self.preprocessing is not None:
            return self.preprocessing.system_prompt
        return self.recipe.get("data", {}).get("system_prompt")

    @property
    def quantization(self) -> str | None:
        """Return how the base was quantised in training: "nf4", "fp4", "int8", or None."""
        return self.recipe.get("model", {}).get("quantization")

    @property
    def dtype(self) -> str:
        """Return the number type of the full weights as saved: "float32", "bfloat16", "float16"."""
        return str(self.config.dtype or "float32").removeprefix("torch.")

    @property
    def answering_dtype(self) -> str:
        """Return the number type to answer in: an adapter's is that of its training, whatever its base is saved in.

        The published base is in float16, whose largest number is 65,504: what bfloat16 has learned may lie beyond.
        """
        trained = self.recipe.get("model", {}).get("dtype") if self.is_adapter else None
        return trained or self.dtype


def open_artifact(name_or_path: str, base: str | None = None, base_revision: str | None = None) -> Artifact:
    """See what `name_or_path` is, without loading a weight; `base` replaces the base that an adapter names, and its
    revision.

    Raises UserError for what is neither an adapter nor a Video-LLaVA, and for an adapter whose weights or base are
    missing.
    """
    adapter_file = find_file(name_or_path, ADAPTER_CONFIG)
    weights, revision = None, None
    if adapter_file is not None:
        weights, base, revision = _parts_of_adapter(name_or_path, adapter_file, base, base_revision)
    elif find_file(name_or_path, CONFIG) is None:
        raise UserError(f"{name_or_path} is neither an adapter nor a model: {describe(name_or_path)}")
    elif base is not None:
        raise UserError(f"{name_or_path} is a full model: leave --base {base} out, it is for adapters")
    base = base or name_or_path
    recipe_file = find_file(name_or_path, RECIPE)
    fingerprint_file = find_file(name_or_path, FINGERPRINT)
    preprocessing_file = find_file(name_or_path, PREPROCESSING)
    return Artifact(
        name_or_path=name_or_path,
        base=base,
        revision=revision,
        config=_read_config(base, revision),
        adapter_weights=weights,
        recipe_file=recipe_file,
        recipe=read_kept_recipe(recipe_file) if recipe_file else {},
        fingerprint=read_fingerprint(fingerprint_file) if fingerprint_file else None,
        preprocessing=read_preprocessing(preprocessing_file) if preprocessing_file else None,
        has_processor=find_file(name_or_path, "tokenizer_config.json") is not None,
    )


def _parts_of_adapter(
    name_or_path: str, config_file: Path, base: str | None, base_revision: str | None
) -> tuple[Path, str, str | None]:
    """Return an adapter's weights, its base and the base's revision; `base` replaces the one that it names."""
    adapter = read_json(config_file)
    check_adapter_settings(f"{name_or_path}: {ADAPTER_CONFIG}", adapter)
    where, revision = adapter.get("base_model_name_or_path"), adapter.get("revision")
    if base is not None:
        where, revision = base, base_revision
    if not where or find_file(where, CONFIG, revision) is None:
        found = f"{where!r} is not here" if where else f"its {ADAPTER_CONFIG} names none"
        raise UserError(f"{name_or_path}: the base model of this adapter is missing ({found}); give it with --base")
    weights = find_file(name_or_path, ADAPTER_WEIGHTS)
    if weights is None:
        raise UserError(f"{name_or_path} has no {ADAPTER_WEIGHTS}: was its saving interrupted?")
    return weights, where, revision


def describe(name_or_path: str) -> str:
    """Say in a few words what is there instead of an adapter or a model."""
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
    if not names:
        return "an empty folder"
    return f"a folder with {', '.join(names[:NUM_NAMES])}{' ...' if len(names) > NUM_NAMES else ''}"


def _read_config(name_or_path: str, revision: str | None) -> PreTrainedConfig:
    try:
        return load_config(name_or_path, revision)
    except SettingError as problem:  # there is no recipe whose setting it could be
        raise UserError(problem.problem) from problem
