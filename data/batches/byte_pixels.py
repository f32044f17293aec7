"""Pixels that travel as bytes, a quarter of what they are as numbers, and are normalised where the model is.

A processor normalises each pixel by itself: what it makes of one follows from its colour and its byte. So what it makes
of every byte is a table, and to look up there is to normalise: to the bit as the processor does, on any device. Where
that does not hold, it is the processor's numbers that travel.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import VideoLlavaProcessor

from data.batches.pixels import MediaLoader, PixelLoader
from data.cache.feature_cache import INPUTS
from data.media.reference import Media
from data.video_llava import fit, pixel_inputs

COLOURS, BYTES = 3, 256
PROBE_SIZE = (90, 120)  # of the picture on which tables are tried, in pixels; of no tower


@dataclass(frozen=True)
class BytePixels:
    """Gives collators what `pixels` does, but bytes for the kinds of media that are named: see `Normalisation`."""

    pixels: PixelLoader
    kinds: Collection[str]

    def fitted(self, item: Media) -> torch.Tensor:
        """Return what `PixelLoader.fitted` does."""
        return self.pixels.fitted(item)

    def inputs(self, pictures: Sequence[torch.Tensor], clips: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Put together what `fitted` returned: pictures (N, 3, H, W), clips (M, F, 3, H, W), both uint8."""
        given = {"image": pictures, "video": clips}
        left = [() if kind in self.kinds else some for kind, some in given.items()]
        as_bytes = {INPUTS[kind]: torch.stack(list(given[kind])) for kind in self.kinds if given[kind]}
        return {**self.pixels.inputs(*left), **as_bytes}

    def empty(self, kinds: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the inputs of no picture and no clip, for the kinds that are named."""
        found, as_bytes = self.pixels.empty(kinds), {INPUTS[kind] for kind in self.kinds}
        return {name: value.to(torch.uint8) if name in as_bytes else value for name, value in found.items()}


def as_bytes(loader: MediaLoader) -> MediaLoader:
    """Return a loader that gives bytes where `loader` gives pixels; one of features is returned as it is."""
    return BytePixels(loader, tuple(tables(loader.processor))) if isinstance(loader, PixelLoader) else loader


class Normalisation:
    """Makes of the towers' inputs that are bytes what a processor makes of them, and leaves everything else alone."""

    def __init__(self, processor: VideoLlavaProcessor):
        self._tables = {INPUTS[kind]: table for kind, table in tables(processor).items()}

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return all inputs, those of bytes as float32 on their device."""
        return {name: self._normalised(name, value) for name, value in inputs.items()}

    def _normalised(self, name: str, value: Any) -> Any:
        if name not in self._tables or value.dtype != torch.uint8:
            return value
        self._tables[name] = self._tables[name].to(value.device)
        return look_up(self._tables[name], value)


def look_up(table: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return what a table (3, 256) has for each of the pixels (..., 3, H, W) uint8."""
    colours = torch.arange(0, COLOURS * BYTES, BYTES, dtype=torch.int32, device=pixels.device)
    places = pixels + colours[:, None, None]  # int32
    return table.flatten().index_select(0, places.flatten()).view(pixels.shape)


def tables(processor: VideoLlavaProcessor) -> dict[str, torch.Tensor]:
    """Return for each kind of media what the processor makes of every byte of every colour, (3, 256) float32.

    Each table is tried on noise. A kind that it does not suit, because the processor's fitted pixels are no bytes,
    because it makes no float32 of them, or looks at more than one pixel, has none.
    """
    found = {kind: _table(processor, kind) for kind in INPUTS}
    return {kind: table for kind, table in found.items() if table is not None}


def _table(processor: VideoLlavaProcessor, kind: str) -> torch.Tensor | None:
    noise = np.random.default_rng(0).integers(0, BYTES, (*PROBE_SIZE, COLOURS), dtype=np.uint8)
    fitted = fit(processor, kind, noise if kind == "image" else noise[None])  # ([F,] 3, H, W)
    *_, height, width = fitted.shape
    if fitted.dtype != torch.uint8 or height * width < BYTES:
        return None
    every = torch.arange(height * width).remainder(BYTES).to(torch.uint8).view(height, width)
    numbers = _by_processor(processor, kind, every.expand(fitted.shape).contiguous())
    if numbers.dtype != torch.float32 or numbers.shape != fitted.shape:
        return None
    table = numbers.view(COLOURS, -1)[:, :BYTES].clone()
    return table if torch.equal(look_up(table, fitted), _by_processor(processor, kind, fitted)) else None


def _by_processor(processor: VideoLlavaProcessor, kind: str, fitted: torch.Tensor) -> torch.Tensor:
    """Return the processor's numbers for one picture or clip."""
    (values,) = pixel_inputs(processor, *(([fitted], []) if kind == "image" else ([], [fitted]))).values()
    return values[0]
