"""Answers as pictures, for pages that show pictures by steps: frames in one strip, question, expected, answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.errors import visible

WIDTH = 640  # pixels; TensorBoard shows pictures about half as wide
MARGIN, GAP, BAR = 16, 2, 8  # around everything, between frames, the coloured bar on the left
MAX_STRIP_HEIGHT = 200
FONT_SIZE, LINE = 25, 34
LABEL_WIDTH, MARK_WIDTH = 130, 30
MAX_LETTERS = 600  # that are looked at, so that a text of megabytes costs nothing
MAX_LINES = {"question": 3, "expected": 2, "answered": 4}
WHITE, INK, PALE, GREEN, RED = "#ffffff", "#1c2127", "#59626d", "#17692f", "#b0311f"
ELLIPSIS = "…"


@dataclass(frozen=True)
class Sample:
    """An answer as plain values. frames: those of each of its clips and pictures, uint8 (H, W, 3)."""

    question: str
    expected: str
    answered: str
    is_right: bool
    frames: Sequence[Sequence[np.ndarray]] = ()


def draw_sample(sample: Sample) -> np.ndarray:
    """Return a picture of an answer, uint8 (H, WIDTH, 3), green or red."""
    inside = WIDTH - 2 * MARGIN - BAR
    strips = [strip(frames, inside) for frames in sample.frames if len(frames)]
    texts = [
        (label, mark, color, is_bold, lines_of(text, inside - LABEL_WIDTH - MARK_WIDTH, MAX_LINES[label], is_bold))
        for label, text, mark, color, is_bold in (
            ("question", sample.question, "", INK, True),
            ("expected", sample.expected, "", INK, False),
            ("answered", sample.answered, "✓" if sample.is_right else "✗", _color(sample), False),
        )
    ]
    height = 2 * MARGIN + sum(each.height + MARGIN // 2 for each in strips)
    height += LINE * sum(len(lines) for *_, lines in texts)
    picture = Image.new("RGB", (WIDTH, height), WHITE)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, BAR - 1, height), fill=_color(sample))
    top = MARGIN
    for each in strips:
        picture.paste(each, (BAR + MARGIN, top))
        top += each.height + MARGIN // 2
    left = BAR + MARGIN
    for label, mark, color, is_bold, lines in texts:
        pen.text((left, top), label, fill=PALE, font=font(False))
        pen.text((left + LABEL_WIDTH, top), mark, fill=color, font=font(is_bold))
        for line in lines:
            pen.text((left + LABEL_WIDTH + MARK_WIDTH, top), line, fill=color, font=font(is_bold))
            top += LINE
    return np.asarray(picture)


def _color(sample: Sample) -> str:
    return GREEN if sample.is_right else RED


def strip(frames: Sequence[np.ndarray], width: int) -> Image.Image:
    """Return frames beside one another, as high as the width allows."""
    pictures = [Image.fromarray(frame) for frame in frames]
    shapes = sum(picture.width / picture.height for picture in pictures)  # the strip's width at a height of one
    height = max(1, min(MAX_STRIP_HEIGHT, int((width - GAP * (len(pictures) - 1)) / shapes)))
    sized = [picture.resize((max(1, round(height * picture.width / picture.height)), height)) for picture in pictures]
    whole = Image.new("RGB", (sum(each.width for each in sized) + GAP * (len(sized) - 1), height), WHITE)
    left = 0
    for each in sized:
        whole.paste(each, (left, 0))
        left += each.width + GAP
    return whole


@cache
def font(is_bold: bool) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and more; it has no
    Chinese, Japanese and Korean, whose letters are boxes."""
    name = "DejaVuSans-Bold.ttf" if is_bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), FONT_SIZE)


def lines_of(text: str, width: int, max_lines: int, is_bold: bool = False) -> list[str]:
    """Break a text into lines that fit; a word that is too long is broken too, and what is too much is cut."""
    words = visible(" ".join(text[:MAX_LETTERS].split())).split(" ")
    has_more = len(text) > MAX_LETTERS
    lines = [""]
    while words:
        word = words.pop(0)
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if _fits(longer, width, is_bold):
            lines[-1] = longer
        elif lines[-1]:
            lines.append("")
            words.insert(0, word)
        else:
            count = _letters_that_fit(word, width, is_bold)
            lines[-1] = word[:count]
            words.insert(0, word[count:])
        if len(lines) > max_lines:
            lines, words, has_more = lines[:max_lines], [], True
    if has_more:
        while lines[-1] and not _fits(lines[-1] + ELLIPSIS, width, is_bold):
            lines[-1] = lines[-1][:-1]
        lines[-1] += ELLIPSIS
    return lines


def _fits(text: str, width: int, is_bold: bool) -> bool:
    return font(is_bold).getlength(text) <= width


def _letters_that_fit(word: str, width: int, is_bold: bool) -> int:
    """Return the number of a word's first letters that fit, one at least."""
    low, high = 1, len(word)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _fits(word[:middle], width, is_bold) else (low, middle - 1)
    return low
