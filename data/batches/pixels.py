"""References to pictures and clips -> what the towers take. This is where media are decoded."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.cache.frame_cache import FrameCache
from data.decoding.decode import decode
from data.media.reference import Media
from data.video_llava import empty_pixels, fit, pixel_inputs


@dataclass(frozen=True)
class PixelLoader:
    """Decodes pictures and clips, each kind in order of appearance, into the towers' inputs (see `pixel_inputs`).

    cache: where their frames are looked for first, and kept."""

    processor: object
    num_frames: int
    cache: FrameCache | None = None
    decode: Callable[[Media, int], np.ndarray] | None = None  # `data.decoding.decode.decode`, in this process

    def __call__(self, media: Iterable[Media]) -> dict:
        """UserError for a file that cannot be decoded."""
        fitted: dict[str, list[torch.Tensor]] = {"image": [], "video": []}
        for item in media:
            fitted[item.kind].append(self.fitted(item))
        return self.inputs(fitted["image"], fitted["video"])

    def inputs(self, pictures: Sequence[torch.Tensor], clips: Sequence[torch.Tensor]) -> dict:
        """Of what `fitted` returns."""
        return pixel_inputs(self.processor, pictures, clips)

    def fitted(self, item: Media) -> torch.Tensor:
        """At the towers' size, uint8: a picture (3, H, W), a clip (F, 3, H, W)."""
        if self.cache is None:
            return self.decoded(item)
        return self.cache.get(item, lambda: self.decoded(item))

    def empty(self, kinds: Collection[str]) -> dict:
        """The inputs of no picture and no clip, see `empty_pixels`."""
        return empty_pixels(self.processor, kinds, self.num_frames)

    def decoded(self, item: Media) -> torch.Tensor:
        """As `fitted`, from the file itself."""
        return fit(self.processor, item.kind, (self.decode or decode)(item, self.num_frames))
