"""Rows as one HTML page that needs nothing else: pictures are in it, nothing is fetched, all text is escaped."""

import base64
import io
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from data.inspection.preview import ShownRow, Span, mask_picture
from data.media.reference import Media
from data.packing.layout import RowLayout

# Cells of the mask: unseen is transparent, so that it is readable on white and on black.
MASK_COLOURS = np.array([[0, 0, 0, 0], [96, 125, 190, 255], [224, 145, 40, 255]], np.uint8)
# JPEG's is where artefacts are no longer seen in frames of 224 pixels; PNG tries harder to be small.
SAVING = {"JPEG": {"quality": 88}, "PNG": {"optimize": True}}


def page(title: str, facts: Sequence[str], rows: Sequence[ShownRow], max_tokens: int | None) -> str:
    """Write the page.

    facts: lines under the title; max_tokens: how long a row may be, None where each is as long as it is.
    """
    environment = Environment(
        loader=PackageLoader("data.inspection", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "data_uri": data_uri,
        "file_name": file_name,
        "many": many,
        "mask": mask,
        "num_tokens": num_tokens,
        "seconds": seconds,
    }
    template = environment.get_template("preview.html.jinja")
    return template.render(title=title, facts=facts, rows=rows, max_tokens=max_tokens)


def mask(layout: RowLayout) -> np.ndarray:
    return MASK_COLOURS[mask_picture(layout)]


def num_tokens(spans: Sequence[Span]) -> int:
    return sum(span.num_tokens for span in spans)


def seconds(item: Media) -> str:
    """Say which part of a clip it is; nothing of a whole one."""
    if item.start is None and item.end is None:
        return ""
    return f", {item.start or 0:g} s to {'the end' if item.end is None else f'{item.end:g} s'}"


def file_name(path: str) -> str:
    """Return `folder/train.json record 3` without the folder."""
    return PurePath(path).name


def many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def data_uri(pixels: np.ndarray, kind: str) -> str:
    """Return pixels, uint8 (H, W, 3 or 4), as an address that holds the whole picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **SAVING[kind])
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
