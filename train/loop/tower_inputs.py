"""Inputs of the towers: pixels that are decoded or taken from a cache, or features in place of towers."""

import logging
from collections.abc import Sequence, Set
from typing import Protocol

from torch import nn
from transformers import TrainingArguments, VideoLlavaProcessor

from data.batches.pixels import PixelLoader
from data.cache.feature_cache import FeatureLoader
from data.cache.frame_cache import FrameCache
from data.command import num_cores, num_processes_here
from data.decoding.container import share_of_cores
from data.decoding.isolated_decoder import IsolatedDecoder
from data.media.reference import Media
from train.loop.ready_features import replace_towers
from train.recipe.recipe import Data


class HasMedia(Protocol):
    """Rows, or questions."""

    def media(self) -> Set[Media]: ...


logger = logging.getLogger(__name__)

MAX_THREADS = 8  # of a decoder; more gain nothing


def pixel_loader(data: Data, processor: VideoLlavaProcessor, num_workers: int) -> PixelLoader:
    """Return what decodes the media, each process with a decoder in a process of its own, or reads the recipe's cache.

    The threads of all decoders of this machine fit its cores.
    """
    cache = None
    if data.frame_cache:
        cache = FrameCache(data.frame_cache, processor, data.num_frames, data.frame_cache_gib)
    num_threads = share_of_cores(num_cores(), num_workers, num_processes_here())
    decode = IsolatedDecoder(data.decode_seconds, num_threads=min(MAX_THREADS, num_threads))
    return PixelLoader(processor, data.num_frames, cache, decode)


def load_tower_inputs(
    data: Data,
    model: nn.Module,
    processor: VideoLlavaProcessor,
    parts: Sequence[HasMedia | None],
    args: TrainingArguments,
) -> PixelLoader | FeatureLoader:
    """Return what loads the towers' inputs. With data.feature_cache the towers are replaced by it. ALL RANKS."""
    pixels = pixel_loader(data, processor, args.dataloader_num_workers)
    if not data.feature_cache:
        return pixels
    media = set().union(*(part.media() for part in parts if part is not None))
    features = replace_towers(model, pixels, data.feature_cache, media, args)
    logger.info(f"features of {len(media)} pictures and clips are in {data.feature_cache}; the towers are released")
    return features
