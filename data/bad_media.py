"""Pictures and clips that cannot be decoded, and what goes with them: exactly their own conversations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from data.digests import digest
from data.encoding import Sample
from data.errors import MediaError
from data.media_json import to_json
from data.pixels import PixelLoader
from data.reference import Media
from data.sampling import UNIFORM


@dataclass(frozen=True)
class BadMedia:
    """rows: the conversations that are left out with it; reason: one line that names the file."""

    item: Media
    rows: tuple[str, ...]
    reason: str


def media_key(item: Media) -> str:
    """Stands for a picture, clip or part of a clip, whichever of its frames are taken."""
    return digest(to_json(replace(item, sampling=UNIFORM))).hex()


def too_many(num_bad: int, num_files: int, max_share: float) -> str:
    return f"{num_bad} of {num_files} media files cannot be decoded, more than data.max_bad_media {max_share:g}"


def load_groups(groups: Sequence[Sequence[Sample]], load_pixels: PixelLoader) -> tuple[list[int], dict, list[BadMedia]]:
    """Decode the media that each group of samples shares.

    Returns which groups can be decoded, their inputs (see `PixelLoader`), and why the others cannot: a group goes with
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


def _fitted(samples: Sequence[Sample], load_pixels: PixelLoader) -> list[torch.Tensor] | BadMedia:
    pixels = []
    for item in samples[0].media:
        try:
            pixels.append(load_pixels.fitted(item))
        except MediaError as problem:
            return BadMedia(item, tuple(sample.name for sample in samples), str(problem))
    return pixels
