"""Ask a trained model as it was trained, unless its user says otherwise."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from data.media.frame_sampling import UNIFORM, FrameSampling
from data.media.reference import Media
from train.preprocessing.contract import PREPROCESSING
from train.results.artifact import Artifact
from train.results.identity import notice


@dataclass(frozen=True)
class Asking:
    """The frames of a clip, how they are chosen, and the system prompt of conversations that bring none."""

    num_frames: int
    sampling: FrameSampling
    system_prompt: str | None

    @property
    def sampling_in_words(self) -> str:
        """Return how frames are chosen where that is not uniform."""
        rate = self.sampling.frames_per_second
        return "" if self.sampling == UNIFORM else f", {self.sampling.way} {rate:g}"

    def shown(self, media: Iterable[Media]) -> list[Media]:
        """Return pictures and clips, the frames of clips chosen as `sampling` says."""
        return [replace(item, sampling=self.sampling) if item.kind == "video" else item for item in media]


def ways_of_asking(
    artifact: Artifact,
    *,
    num_frames: int | None = None,
    system_prompt: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Asking:
    """Return how a model is asked: as it was trained, but for what is given here; tells the user where that differs.

    system_prompt: "" is none at all. recipe: values of the recipe that names the questions, and says nothing of a model
    that was trained. Everything that asks a model goes through here: generate, evaluate, chat, serve.
    """
    as_trained = Asking(artifact.num_frames, artifact.sampling, artifact.system_prompt)
    asking, given = as_trained, {}
    if num_frames is not None:
        asking, given["num_frames"] = replace(asking, num_frames=num_frames), num_frames
    if system_prompt is not None:
        asking, given["system_prompt"] = replace(asking, system_prompt=system_prompt or None), system_prompt
    if artifact.preprocessing is not None:
        for name, wanted in given.items():
            if getattr(asking, name) != (trained := getattr(as_trained, name)):
                notice(f"{name}: {wanted!r}, as asked, instead of {trained!r}, that of training")
        for name, said in _of_recipe(artifact.recipe):
            if said != getattr(artifact, name):
                notice(
                    f"{artifact.name_or_path}: {name} is {getattr(artifact, name)!r} in {PREPROCESSING} and {said!r} "
                    f"in its recipe; {PREPROCESSING} counts"
                )
    for name, said in _of_recipe(recipe or {}):
        if name not in given and said != getattr(asking, name):
            notice(f"{name}: {getattr(asking, name)!r}, that of the model, instead of {said!r} in the recipe")
    return asking


def _of_recipe(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a recipe says of the same, where it says anything."""
    said = recipe.get("data") or {}
    yield from ((name, said[name]) for name in ("num_frames", "system_prompt") if name in said)
