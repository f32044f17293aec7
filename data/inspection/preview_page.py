"""Rows as one HTML page that needs nothing else: pictures are in it, nothing is fetched, all text is escaped."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from data.decoding.moments import Moments
from data.errors import many
from data.inspection.preview import ShownRow, Span, mask_picture
from data.media.reference import Media
from data.packing.layout import RowLayout

# Cells of the mask: unseen is transparent, so that it is readable on white and on black.
MASK_COLOURS = np.array([[0, 0, 0, 0], [96, 125, 190, 255], [224, 145, 40, 255]], np.uint8)
# JPEG's is where artefacts are no longer seen in frames of 224 pixels; PNG tries harder to be small.
SAVING = {"JPEG": {"quality": 88}, "PNG": {"optimize": True}}


@dataclass(frozen=True)
class Part:
    """Rows of the page under a heading of their own, and what is said of them.

    max_tokens: how long a row may be, None where each is as long as it is.
    """

    heading: str
    facts: Sequence[str]
    rows: Sequence[ShownRow]
    max_tokens: int | None = None
    remarks: Sequence[str] = ()  # one for each row, about its conversation, instead of its number
    records: Sequence[str] = ()  # texts of those without a row


def page(title: str, facts: Sequence[str], parts: Sequence[Part]) -> str:
    """Write the page. facts: lines under the title."""
    environment = Environment(
        loader=PackageLoader("data.inspection", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "data_uri": data_uri,
        "file_name": file_name,
        "many": many,
        "mask": mask,
        "num_tokens": num_tokens,
        "moment": moment,
        "seconds": seconds,
        "length_of": length_of,
    }
    template = environment.get_template("preview.html.jinja")
    return template.render(title=title, facts=facts, parts=parts)


def mask(layout: RowLayout) -> np.ndarray:
    return MASK_COLOURS[mask_picture(layout)]


def num_tokens(spans: Sequence[Span]) -> int:
    """Count the tokens that belong to these spans alone."""
    return sum(span.num_tokens for span in spans if not span.is_shared)


def seconds(item: Media) -> str:
    """Say which part of a clip it is; nothing of a whole one."""
    if item.start is None and item.end is None:
        return ""
    return f", {item.start or 0:g} s to {'the end' if item.end is None else f'{item.end:g} s'}"


def length_of(moments: Moments | None) -> str:
    """Say how long a clip is; nothing where nobody knows."""
    return "" if moments is None else f", {'' if moments.is_exact else 'about '}{moments.length:.2f} s long"


def moment(moments: Moments | None, number: int) -> str:
    """Say when a frame is taken; nothing where nobody knows."""
    return "" if moments is None else f"{moments.taken[number]:.2f} s"


def file_name(path: str) -> str:
    """Return `folder/train.json record 3` without the folder."""
    return PurePath(path).name


def data_uri(pixels: np.ndarray, kind: str) -> str:
    """Return pixels, uint8 (H, W, 3 or 4), as an address that holds the whole picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **SAVING[kind])
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
