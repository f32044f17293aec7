"""The frames of clips and pictures that answers are about, found again by their records in the data of a recipe."""

import io
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import numpy as np
from PIL import Image

from data.decoding.isolated_decoder import IsolatedDecoder
from data.errors import OutageError, UserError
from data.media.reference import Media
from data.sources.conversation import Conversation, read_conversations
from train.recipe.recipe import Data

logger = logging.getLogger(__name__)

MAX_FRAMES = 8  # shown of a clip: those at equal distances, where the model sees more
LONG_SIDE = 160  # pixels of a frame: twice as many as it has on a page of eight in a line
QUALITY = 72  # of WebP, where frames of this size show no blocks
MAX_BYTES = 2_000_000  # of all frames of a page: it is sent by mail

Key = tuple[str, tuple[str, ...]]  # the id of a record, or of a turn of it, and the paths of its media


def key_of(record: Mapping) -> Key:
    """Return what finds the media of an answer again."""
    media = record.get("media")
    return str(record.get("id")), tuple(map(str, media)) if isinstance(media, list) else ()


class Frames:
    """Decodes what the model sees of clips and pictures, each once, in a process that may fail.

    What cannot be had has no frames: a page without a picture is better than none.
    """

    def __init__(self, data: Data, decode: Callable[[Media, int], np.ndarray] | None = None, is_online: bool = True):
        """is_online: clips behind addresses may be fetched; otherwise those are shown that were fetched before."""
        self.data = data if is_online else data.model_copy(update={"media_hosts": []})
        self.decode = decode or IsolatedDecoder(data.decode_seconds)
        self._found: dict[Key, tuple[Media, ...]] = {}
        self._decoded: dict[Media, list[np.ndarray]] = {}
        self._is_out = False  # a disk or server is away: it is waited for once

    def find(self, records: Iterable[Mapping]) -> None:
        """Look up the media of these answers in the files of data.eval, as far as these are on this machine."""
        wanted = {key for record in records if (key := key_of(record))[1]} - self._found.keys()
        local = [entry for entry in self.data.eval if os.path.exists(entry.path)]
        with suppress(UserError, OSError):
            for source in self.data.sources(local):
                for conversation in read_conversations(source, on_problem=_pass_over):
                    if not wanted:
                        return
                    for key in [key for key in wanted if _is_about(conversation, key)]:
                        by_path = {item.path: item for item in conversation.media}
                        self._found[key] = tuple(by_path[path] for path in key[1])
                        wanted.remove(key)

    def of(self, record: Mapping) -> list[list[np.ndarray]]:
        """Return the frames, each uint8 (H, W, 3), of each picture and clip of an answer; [] for what cannot be had."""
        return [self._frames(item) for item in self._found.get(key_of(record), ())]

    def _frames(self, item: Media) -> list[np.ndarray]:
        if item not in self._decoded:
            self._decoded[item] = [] if self._is_out else self._decode(item)
        return self._decoded[item]

    def _decode(self, item: Media) -> list[np.ndarray]:
        try:
            pixels = self.decode(item, self.data.num_frames)
        except OutageError as problem:
            self._is_out = True
            logger.warning(f"no more frames are shown: {problem}")
            return []
        except UserError as problem:
            logger.info(f"cannot be shown: {problem}")
            return []
        frames = pixels[None] if pixels.ndim == 3 else pixels
        count = min(len(frames), MAX_FRAMES)
        return [smaller(frames[number * len(frames) // count]) for number in range(count)]


def _pass_over(problem: UserError) -> None:
    """Leave a record out: training has said what is wrong with it."""


def _is_about(conversation: Conversation, key: Key) -> bool:
    """Tell whether the key is that of the conversation, or of one of its turns: id, id/1, id/2 ..."""
    name, (identity, paths) = str(conversation.record.get("id", conversation.name)), key
    is_same = identity == name or (identity.startswith(f"{name}/") and identity[len(name) + 1 :].isdecimal())
    return is_same and set(paths) <= {item.path for item in conversation.media}


def smaller(frame: np.ndarray, side: int = LONG_SIDE) -> np.ndarray:
    """Return a frame whose longer side has at most so many pixels."""
    picture = Image.fromarray(frame)
    picture.thumbnail((side, side))
    return np.asarray(picture)


def webp(frame: np.ndarray) -> bytes:
    """Return a frame as a file that browsers show."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "WEBP", quality=QUALITY)
    return file.getvalue()
