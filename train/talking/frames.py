"""Pictures and clips as the model sees them: decoded once, kept for the next question, and shown to people."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.color import Color
from rich.style import Style
from rich.text import Text

from data.batches.pixels import PixelLoader
from data.errors import MediaError
from data.media.reference import Media, identity

MAX_KEPT = 32  # clips of 8 frames of 224 pixels: 37 MiB in all
GAP = 4  # pixels between frames of a strip
LABEL_HEIGHT = 14  # pixels: a line of Pillow's own font


def key_of(item: Media) -> Hashable:
    """Return what changes when another picture, clip or part of it is meant. Raises MediaError for a missing file."""
    try:
        return item.kind, identity(item), item.start, item.end, item.sampling
    except OSError as error:
        raise MediaError(f"{item.path!r} cannot be read: {error.strerror}") from error


class Frames:
    """Decodes pictures and clips at the towers' size, and keeps the last ones; several threads may ask."""

    def __init__(self, load: PixelLoader):
        self.load = load
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()  # also because a decoder takes one file at a time

    def __call__(self, item: Media, key: Hashable) -> torch.Tensor:
        """Return a picture (3, H, W) or a clip (F, 3, H, W), uint8. Raises MediaError where it cannot be decoded."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self.load.fitted(item)
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


def strip(pixels: torch.Tensor, labels: Sequence[str] = (), columns: int = 8) -> Image.Image:
    """Draw a picture (3, H, W) or the frames of a clip (F, 3, H, W), uint8, side by side, `columns` in a line."""
    frames = pixels[None] if pixels.dim() == 3 else pixels
    arrays = frames.permute(0, 2, 3, 1).cpu().numpy()
    height, width = arrays.shape[1] + (LABEL_HEIGHT if labels else 0), arrays.shape[2]
    columns = min(columns, len(arrays))
    lines = -(-len(arrays) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, lines * (height + GAP) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, frame in enumerate(arrays):
        left, top = number % columns * (width + GAP), number // columns * (height + GAP)
        if labels:
            draw.text((left + 2, top), labels[number], fill="black")
        sheet.paste(Image.fromarray(frame), (left, top + height - arrays.shape[1]))
    return sheet


def half_blocks(picture: Image.Image, width: int) -> Text:
    """Return a picture as coloured letters, `width` in a line: each shows two pixels, one above the other."""
    height = max(2, round(picture.height * width / picture.width / 2) * 2)
    pixels = np.asarray(picture.convert("RGB").resize((width, height)))
    text = Text(no_wrap=True)
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    return text
