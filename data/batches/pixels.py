"""References to pictures and clips -> what the towers take. This is where media are decoded."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from transformers import VideoLlavaProcessor

from data.cache.frame_cache import FrameCache
from data.decoding.decode import decode
from data.media.reference import Media
from data.video_llava import empty_pixels, fit, pixel_inputs


class MediaLoader(Protocol):
    """A source of the towers' inputs for collators: a `PixelLoader`, or a `data.cache.feature_cache.FeatureLoader`."""

    def fitted(self, item: Media, /) -> torch.Tensor:
        """Return a picture or clip as `inputs` takes it. Raises MediaError where it cannot be decoded."""
        ...

    def inputs(self, pictures: Sequence[torch.Tensor], clips: Sequence[torch.Tensor], /) -> dict[str, torch.Tensor]:
        """Return the model's inputs for what `fitted` returned. A kind that is absent has no key."""
        ...

    def empty(self, kinds: Collection[str], /) -> dict[str, torch.Tensor]:
        """Return the inputs of no picture and no clip, for the kinds that are named."""
        ...


@dataclass(frozen=True)
class PixelLoader:
    """Decodes pictures and clips, each kind in order of appearance, into the towers' inputs (see `pixel_inputs`).

    cache: where their frames are looked for first, and kept. decode: None decodes in this process.
    """

    processor: VideoLlavaProcessor
    num_frames: int
    cache: FrameCache | None = None
    decode: Callable[[Media, int], np.ndarray] | None = None

    def __call__(self, media: Iterable[Media]) -> dict[str, torch.Tensor]:
        """Return the towers' inputs. Raises UserError for a file that cannot be decoded."""
        fitted: dict[str, list[torch.Tensor]] = {"image": [], "video": []}
        for item in media:
            fitted[item.kind].append(self.fitted(item))
        return self.inputs(fitted["image"], fitted["video"])

    def inputs(self, pictures: Sequence[torch.Tensor], clips: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Normalise what `fitted` returned and put it together."""
        return pixel_inputs(self.processor, pictures, clips)

    def fitted(self, item: Media) -> torch.Tensor:
        """Return a picture (3, H, W) or a clip (F, 3, H, W) at the towers' size, uint8, from the cache or the file."""
        if self.cache is None:
            return self.decoded(item)
        return self.cache.get(item, lambda: self.decoded(item))

    def empty(self, kinds: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the inputs of no picture and no clip, see `empty_pixels`."""
        return empty_pixels(self.processor, kinds, self.num_frames)

    def decoded(self, item: Media) -> torch.Tensor:
        """Return what `fitted` does, from the file itself."""
        return fit(self.processor, item.kind, (self.decode or decode)(item, self.num_frames))
