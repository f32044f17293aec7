"""The pixels of several groups at once, without the groups of which a picture or clip cannot be decoded."""

from collections.abc import Sequence

import torch

from data.batches.pixels import MediaLoader
from data.errors import MediaError
from data.media.bad_media import BadMedia
from data.tokens.encoding import Sample


def load_groups(
    groups: Sequence[Sequence[Sample]], load_pixels: MediaLoader
) -> tuple[list[int], dict[str, torch.Tensor], list[BadMedia]]:
    """Decode the media that each group of samples shares.

    Returns which groups can be decoded, their inputs (see `MediaLoader`), and why the others cannot: a group goes with
    the first of its media of which the decoder says MediaError. Every other error is raised.
    """
    kept, bad = [], []
    fitted: dict[str, list[torch.Tensor]] = {"image": [], "video": []}
    for number, samples in enumerate(groups):
        pixels = _fitted(samples, load_pixels)
        if isinstance(pixels, BadMedia):
            bad.append(pixels)
            continue
        kept.append(number)
        for item, tensor in zip(samples[0].media, pixels, strict=True):
            fitted[item.kind].append(tensor)
    return kept, load_pixels.inputs(fitted["image"], fitted["video"]), bad


def _fitted(samples: Sequence[Sample], load_pixels: MediaLoader) -> list[torch.Tensor] | BadMedia:
    pixels = []
    for item in samples[0].media:
        try:
            pixels.append(load_pixels.fitted(item))
        except MediaError as problem:
            return BadMedia(item, tuple(sample.name for sample in samples), str(problem))
    return pixels
