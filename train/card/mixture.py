"""mixture.json: the adapters that a merged model was made of, their weights, and how they were combined."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.checkpoint_files import read_json
from data.errors import UserError
from train.card.cleaned import without_place, without_secrets
from train.recipe.recipe import MAX_FRAMES

MIXTURE = "mixture.json"


class _Noted(BaseModel):
    model_config = ConfigDict(strict=True)


class Part(_Noted):
    """An adapter. sha256: of its weights; counts: of what it was trained on; recipe: without paths and secrets."""

    name: str
    weight: float = Field(allow_inf_nan=False)
    sha256: str
    step: int | None
    counts: dict[str, int]
    recipe: dict[str, Any]


class DataSettings(_Noted):
    """The common part of the adapters' recipes: how the model is asked."""

    num_frames: int = Field(ge=1, le=MAX_FRAMES)
    system_prompt: str | None
    frame_sampling: Literal["uniform", "fps"]
    frames_per_second: float | None


class Told(_Noted):
    """The content of the file. density and seed: None for methods that have none."""

    format: Literal[1] = 1
    method: str
    density: float | None
    seed: int | None
    data: DataSettings
    adapters: list[Part]


def write_mixture(folder: Path, told: Told) -> None:
    """Write the file, without what tells of this machine."""
    for part in told.adapters:
        part.name, part.recipe = without_place(part.name), without_secrets(part.recipe)
    (folder / MIXTURE).write_text(told.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_mixture(folder: Path) -> Told | None:
    """Return what the file says, None where there is none or where it is damaged."""
    if not (folder / MIXTURE).is_file():
        return None
    try:
        return Told.model_validate(read_json(folder / MIXTURE))
    except (UserError, ValidationError):
        return None
