"""The frames of clips and pictures at the towers' size, decoded once and kept on disk."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import VideoLlavaProcessor
from transformers.image_processing_base import ImageProcessingMixin

from data.cache.tensor_files import Kind, TensorFiles
from data.errors import SettingError, UserError, in_words, way_out, with_way_out
from data.media.reference import Media, identity
from data.video_llava import fit

logger = logging.getLogger(__name__)

FORMAT = 2  # the frames of sparse AVIs were others in 1
# The packages between a file and the pixels that are kept: another version of one may round otherwise.
READERS = {
    "image": ("pillow", "torch", "torchvision", "transformers"),
    "video": ("av", "torch", "torchvision", "transformers"),
}
# The settings of a processor that come behind `fit`.
NORMALISATION = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
# Those, and what says nothing about pixels.
LATER_SETTINGS = {
    *NORMALISATION, "processor_class", "return_metadata", "data_format", "return_tensors", "device",
    "num_frames", "do_sample_frames", "fps",  # for those who hand it whole clips: ours are frames already
}  # fmt: skip


class FrameKeys:
    """Keys of everything that the fitted pixels of a picture or clip depend on: file, frames, way of fitting."""

    def __init__(self, processor: VideoLlavaProcessor, num_frames: int):
        self.num_frames = num_frames
        sides = {"image": processor.image_processor, "video": processor.video_processor}
        self._common = {
            kind: {
                "format": FORMAT,
                "kind": kind,
                "processor": _settings(side),
                "versions": {name: _version(name) for name in READERS[kind]},
            }
            for kind, side in sides.items()
        }

    def __call__(self, item: Media) -> dict[str, Any]:
        """Return plain values for JSON. Raises OSError for a file that is missing."""
        key = {**self._common[item.kind], "file": list(identity(item))}
        if item.kind == "video":
            key |= {
                "num_frames": self.num_frames,
                "start": item.start,
                "end": item.end,
                "sampling": asdict(item.sampling),
            }
        return key


def _settings(side: ImageProcessingMixin) -> dict[str, Any]:
    """Return the settings of an image or video processor; its class says which library resizes."""
    settings = json.loads(side.to_json_string())  # a processor that was saved and loaded has lists for tuples
    return {"class": type(side).__name__} | {k: v for k, v in settings.items() if k not in LATER_SETTINGS}


def normalisation(side: ImageProcessingMixin) -> dict[str, Any]:
    """Return what an image or video processor does to fitted pixels."""
    settings = json.loads(side.to_json_string())
    return {name: settings.get(name) for name in NORMALISATION}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def kinds_of_frames(processor: VideoLlavaProcessor, num_frames: int) -> dict[str, Kind]:
    """Return what fitted pictures (3, H, W) and clips (F, 3, H, W) are, by fitting a blank one."""
    blank = np.zeros((32, 32, 3), dtype=np.uint8)
    picture, (frame, *_) = fit(processor, "image", blank), fit(processor, "video", blank[None])
    return {"image": Kind.of(picture), "video": Kind((num_frames, *frame.shape), frame.dtype)}


class CannotKeepError(UserError):
    """A cache that takes no more: it is full, or its disk refuses a write."""


class FrameCache:
    """Files of uint8 pixels in `folder`, at most `max_gib` of them.

    What does not fit is decoded every time, and so is everything new once the disk refuses a write; both are said once.
    must_keep: raise CannotKeepError in both cases, and let no power cut lose an entry.

    SettingError where the folder cannot be written at the start.
    """

    def __init__(
        self,
        folder: str | Path,
        processor: VideoLlavaProcessor,
        num_frames: int,
        max_gib: float | None = None,
        must_keep: bool = False,
    ):
        self.key_of = FrameKeys(processor, num_frames)
        self._kinds = kinds_of_frames(processor, num_frames)
        try:
            self._files = TensorFiles(folder, None if max_gib is None else int(max_gib * 2**30))
        except OSError as problem:
            reason = f"cannot write {folder}: {with_way_out(problem)}, or remove the setting"
            raise SettingError("frame_cache", reason) from problem
        self.folder, self.must_keep = Path(folder), must_keep
        self._is_closed = RawValue("b", False)  # of this process and of its data loader's workers

    def get(self, item: Media, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return the pixels that are kept for `item`, or those of `make()`, which are then kept."""
        try:
            key = self.key_of(item)
        except OSError:  # the file is missing: its reader has the words for that
            return make()
        if (pixels := self._files.read(key, self._kinds[item.kind])) is None:
            pixels = make()
            self._keep(key, pixels)
        return pixels

    def __contains__(self, item: Media) -> bool:
        """Tell whether there is an entry for it, by its head."""
        try:
            return self._files.has(self.key_of(item), self._kinds[item.kind])
        except OSError:
            return False

    def __getstate__(self) -> dict[str, Any]:
        """Share `_is_closed` with a process that is being started; others find out for themselves."""
        return self.__dict__ | ({} if get_spawning_popen() else {"_is_closed": None})

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._is_closed = self._is_closed or RawValue("b", False)

    def _keep(self, key: Mapping, pixels: torch.Tensor) -> None:
        if self._is_closed.value:
            return
        try:
            if self._files.write(key, pixels, is_flushed=self.must_keep):
                return
            reason = "is full of what this run uses; raise frame_cache_gib"
        except OSError as problem:
            reason = f"cannot be written ({in_words(problem)}); {way_out(problem)}"
        if self.must_keep:
            raise CannotKeepError(reason)
        self._close(reason)

    def remove_killed(self) -> None:
        """Remove what killed processes have begun to write."""
        self._files.remove_killed()

    def _close(self, reason: str) -> None:
        is_told, self._is_closed.value = self._is_closed.value, True
        if not is_told:
            logger.warning(f"frame_cache: {self.folder} {reason}. Frames that are not in it are decoded every epoch")
