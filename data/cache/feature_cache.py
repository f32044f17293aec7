"""The output of frozen towers, kept on disk: the model takes it in place of pixels and needs no tower."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import VideoLlavaProcessor

from data.cache.frame_cache import FrameKeys, normalisation
from data.cache.tensor_files import Kind, TensorFiles
from data.errors import MediaError, SettingError, with_way_out
from data.media.reference import Media
from data.video_llava import image_key

FORMAT = 2  # how pixels are normalised was not in the key in 1
INPUTS = {"image": image_key(), "video": "pixel_values_videos"}


@dataclass(frozen=True)
class Features:
    """The properties of the two towers' features.

    layers: whose hidden states are taken, as `vision_feature_layer` names them; num_tokens: of a picture or frame,
    class token included; width: of a hidden state; digests: kind of media -> SHA-256 of its tower's weights;
    precision: number type of the matrix products in the towers.
    """

    layers: tuple[int, ...]
    num_tokens: int
    width: int
    dtype: torch.dtype
    digests: Mapping[str, str]
    precision: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (L, T, D) of a picture's or frame's features."""
        return len(self.layers), self.num_tokens, self.width


class FeatureLoader:
    """The inputs of `train.loop.ready_features.ReadyFeatures`, in place of a `PixelLoader`.

    SettingError where the folder cannot be written at the start.
    """

    def __init__(self, folder: str | Path, processor: VideoLlavaProcessor, num_frames: int, features: Features):
        self.folder, self.num_frames, self.features = folder, num_frames, features
        self.refused: dict[Media, str] = {}  # what cannot be decoded, and why
        self._key_of_frames = FrameKeys(processor, num_frames)
        sides = {"image": processor.image_processor, "video": processor.video_processor}
        self._normalisation = {kind: normalisation(side) for kind, side in sides.items()}
        try:
            self._files = TensorFiles(folder)
        except OSError as problem:
            reason = f"cannot write {folder}: {with_way_out(problem)}, or remove the setting"
            raise SettingError("feature_cache", reason) from problem

    def __call__(self, media: Iterable[Media]) -> dict[str, Any]:
        """Under the names of pixels: of pictures (N, L, T, D), of clips (M, F, L, T, D). A kind that is absent has no
        key. SettingError for a picture or clip without features, MediaError for one that cannot be decoded."""
        found: dict[str, list[torch.Tensor]] = {"image": [], "video": []}
        for item in media:
            found[item.kind].append(self.fitted(item))
        return self.inputs(found["image"], found["video"])

    def inputs(self, pictures: Sequence[torch.Tensor], clips: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Put together what `fitted` returned."""
        found = {INPUTS["image"]: pictures, INPUTS["video"]: clips}
        return {name: torch.stack(list(values)) for name, values in found.items() if values}

    def empty(self, kinds: Collection[str]) -> dict[str, Any]:
        """Return the inputs of no picture (0, L, T, D) and no clip (0, F, L, T, D), for the kinds that are named."""
        shapes = {"image": (0, *self.features.shape), "video": (0, self.num_frames, *self.features.shape)}
        return {INPUTS[kind]: torch.zeros(shapes[kind], dtype=self.features.dtype) for kind in kinds}

    def __contains__(self, item: Media) -> bool:
        try:
            return self._files.has(self._key(item), self._kind(item))
        except OSError:  # the file is missing, as its reader will say
            return False

    def keep(self, item: Media, features: torch.Tensor) -> None:
        """Keep the features of a picture (L, T, D) or a clip (F, L, T, D). SettingError where the disk refuses them."""
        try:
            self._files.write(self._key(item), features, is_flushed=True)
        except OSError as problem:
            reason = f"cannot write into {self.folder}: {with_way_out(problem)}; the same command goes on"
            raise SettingError("feature_cache", reason) from problem

    def fitted(self, item: Media) -> torch.Tensor:
        """Return the features of a picture (L, T, D) or a clip (F, L, T, D).

        Raises MediaError for what cannot be decoded, UserError for what has no features.
        """
        if item in self.refused:
            raise MediaError(self.refused[item])
        try:
            found = self._files.read(self._key(item), self._kind(item))
        except OSError:
            found = None
        if found is None:
            raise SettingError(
                "feature_cache",
                f"{self.folder} has no features of {item.path!r}: that file or its entry has changed since the start; "
                "the same command makes them anew",
            )
        return found

    def _kind(self, item: Media) -> Kind:
        shape = self.features.shape if item.kind == "image" else (self.num_frames, *self.features.shape)
        return Kind(shape, self.features.dtype)

    def _key(self, item: Media) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "frames": self._key_of_frames(item),
            "normalisation": self._normalisation[item.kind],
            "tower": self.features.digests[item.kind],
            "layers": list(self.features.layers),
            "dtype": str(self.features.dtype),
            "precision": self.features.precision,
        }
