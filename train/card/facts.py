"""Read what the files in the folder of a trained model tell of it; they may come from a stranger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, try_to_load_from_cache

from data.checkpoint_files import ADAPTER_CONFIG, CONFIG, read_json
from data.errors import UserError
from data.video_llava import NUM_FRAMES
from train.card.cleaned import without_secrets
from train.card.mixture import Told, read_mixture
from train.card.scores import Scored, last_scores
from train.recipe.load import read_kept_recipe
from train.run_folder.provenance import PROVENANCE

RECIPE = "recipe.yaml"
MAX_LICENCE = 64  # letters
PARTS = ("train", "eval")
COUNTED = ("conversations", "clips", "pictures")


@dataclass(frozen=True)
class Facts:
    """base: where the weights come from that were trained, as the files name it. recipe: plain values, without paths
    and secrets. counts: by part of the data, what is in it. evaluations: (step, loss) of the first and of the last.
    scores: of the last evaluation by answers. step: the last one of training. mixture: the adapters of a model that was
    made of several, whose recipe here is what theirs have in common.
    """

    is_adapter: bool
    base: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    evaluations: tuple[tuple[int, float], ...] = ()
    licence: str | None = None
    scores: tuple[Scored, ...] = ()
    step: int | None = None
    mixture: Told | None = None

    def of(self, section: str, key: str, default: Any = None) -> Any:
        """Return a value of the recipe."""
        return (self.recipe.get(section) or {}).get(key, default)

    @property
    def num_frames(self) -> int:
        return self.of("data", "num_frames", NUM_FRAMES)

    @property
    def only_pictures(self) -> bool:
        """Tell whether it was trained on pictures and on no clip."""
        train = self.counts.get("train", {})
        return bool(train.get("pictures")) and not train.get("clips")


def read_facts(folder: Path, recipe: Mapping[str, Any] | None = None, base: str | None = None) -> Facts:
    """Read them; `recipe` is used where none lies in the folder yet, `base` in place of the one that the files name."""
    adapter = read_json(folder / ADAPTER_CONFIG) if (folder / ADAPTER_CONFIG).is_file() else None
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if (folder / RECIPE).is_file():
        recipe = read_kept_recipe(folder / RECIPE)
    mixture = read_mixture(folder)
    values = {"data": mixture.data.model_dump()} if mixture else recipe or {}
    model = values.get("model") or {}
    trained_on = (adapter or {}).get("base_model_name_or_path") or model.get("name_or_path")
    revision = (adapter or {}).get("revision") or model.get("revision")
    named = {"peft": (adapter or {}).get("peft_version"), "transformers": config.get("transformers_version")}
    said, where = _provenance(folder), base or (trained_on if isinstance(trained_on, str) else None)
    step = said.get("step") if type(said.get("step")) is int else None
    return Facts(
        is_adapter=adapter is not None,
        base=where,
        recipe=without_secrets(dict(values)),
        versions={name: version for name, version in named.items() if isinstance(version, str) and version},
        counts=_together(mixture) if mixture else _counts(said.get("counts")),
        evaluations=_evaluations(said.get("evaluations")),
        scores=last_scores(folder, step),
        step=step,
        licence=licence_of(where, revision if where == trained_on else None) if where else None,
        mixture=mixture,
    )


def licence_of(base: str, revision: str | None) -> str | None:
    """Return the licence that a base's own card names, as far as it is on this machine; nothing is downloaded."""
    local = Path(base, "README.md")
    try:
        cached = None if local.is_file() else try_to_load_from_cache(base, "README.md", revision=revision)
        file = local if local.is_file() else cached
        if not isinstance(file, str | Path):
            return None
        named = ModelCard.load(file, ignore_metadata_errors=True).data.to_dict().get("license")
    except Exception:  # noqa: BLE001  whatever a stranger's card does to the hub's reader: it is a nicety
        return None
    is_name = isinstance(named, str) and named.replace("-", "").replace(".", "").isalnum()
    return named if is_name and len(named) <= MAX_LICENCE else None


def _provenance(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    except UserError:
        return {}  # damaged: then it says nothing


def _counts(value: Any) -> dict[str, dict[str, int]]:
    found = {part: value[part] for part in PARTS if isinstance(value, dict) and isinstance(value.get(part), dict)}
    return {
        part: {name: counts[name] for name in COUNTED if type(counts.get(name)) is int}
        for part, counts in found.items()
    }


def _together(mixture: Told) -> dict[str, dict[str, int]]:
    """Return what all adapters of a mixture were trained on."""
    return {"train": {name: sum(part.counts.get(name, 0) for part in mixture.adapters) for name in COUNTED}}


def _evaluations(value: Any) -> tuple[tuple[int, float], ...]:
    lines = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    return tuple(
        (each["step"], float(each["loss"]))
        for each in lines
        if type(each.get("step")) is int and type(each.get("loss")) in (int, float)
    )
