"""Rows as one HTML page that needs nothing else: pictures are in it, nothing is fetched, all text is escaped."""

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from data.inspection.preview import Shown, ShownGroup, ShownRow, Span, mask_picture

# Cells of the mask: unseen is transparent, so that it is readable on white and on black.
MASK_COLOURS = np.array([[0, 0, 0, 0], [96, 125, 190, 255], [224, 145, 40, 255]], np.uint8)

STYLE = Path(__file__).with_name("preview.css").read_text(encoding="utf-8")


def page(title: str, facts: Sequence[str], rows: Sequence[ShownRow], max_tokens: int | None) -> str:
    """`facts`: lines under the title; `max_tokens`: how long a row may be, None where each is as long as it is."""
    body = "\n".join(_row(number, row, max_tokens) for number, row in enumerate(rows, start=1))
    lines = "".join(f'<div class="pale fact">{escape(fact)}</div>' for fact in facts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>{lines}{LEGEND}\n{body}</main></body></html>\n"
    )


LEGEND = (
    '<div class="legend words"><span><mark>trained words</mark></span><span>masked words</span>'
    '<span class="chip">visual tokens</span>'
    '<span class="small"><i class="dot visual"></i>seen by all that share it</span>'
    '<span class="small"><i class="dot own"></i>seen by its own question only</span></div>'
)


def _row(number: int, row: ShownRow, max_tokens: int | None) -> str:
    total, trained = row.num_tokens(), row.num_tokens("trained")
    counts = {"visual": row.num_tokens("image", "video"), "masked": row.num_tokens("masked"), "trained": trained}
    room = max(total, max_tokens or total)
    bar = "".join(f'<i class="{kind}" style="width:{100 * count / room:.2f}%"></i>' for kind, count in counts.items())
    dots = "".join(f'<span><i class="dot {kind}"></i>{count:,} {kind}</span>' for kind, count in counts.items())
    of_room = f" of {max_tokens:,}" if max_tokens else ""
    questions = sum(len(group.names) for group in row.groups)
    title = f"Row {number} · {_many(questions, 'conversation')} in {_many(len(row.groups), 'group')}"
    return (
        f'<section class="row"><div class="head"><div class="sizes"><h2>{title}</h2>'
        f'<div class="bar">{bar}</div><div class="small pale numbers counts"><span>{total:,}{of_room} tokens</span>'
        f"{dots}<span>{trained / total:.1%} trained</span></div>"
        f'<ul class="small pale numbers">{"".join(map(_summary, row.groups))}</ul></div>{_mask(row)}</div>'
        f"{''.join(map(_group, row.groups))}</section>"
    )


def _summary(group: ShownGroup) -> str:
    names = ", ".join(escape(Path(shown.media.path).name) for shown in group.media) or "text alone"
    shared, *own = (sum(span.num_tokens for span in part) for part in (group.prefix, *group.suffixes))
    counts = f"{shared:,} shared by {_many(len(own), 'question')} of {sum(own):,}" if own else f"{shared:,}"
    return f"<li><b>{names}</b>: {counts} tokens</li>"


def _mask(row: ShownRow) -> str:
    picture = Image.fromarray(MASK_COLOURS[mask_picture(row.layout)])
    return (
        f'<figure class="mask small pale"><img alt="attention mask" src="{_data_uri(picture, "PNG")}">'
        "attention: lines see columns</figure>"
    )


def _group(group: ShownGroup) -> str:
    media = "".join(map(_medium, group.media))
    if not group.suffixes:
        (name,) = group.names
        questions = _question(name, group.prefix)
        return f'<div class="group">{media}<ol>{questions}</ol></div>'
    questions = "".join(_question(name, spans) for name, spans in zip(group.names, group.suffixes, strict=True))
    return f'<div class="group">{media}<p class="words">{_words(group.prefix)}</p><ol>{questions}</ol></div>'


def _question(name: str, spans: Sequence[Span]) -> str:
    count = sum(span.num_tokens for span in spans)
    note = f"{escape(_short(name))} · {_many(count, 'token')}"
    return (
        f'<li><p class="words">{_words(spans)}</p>'
        f'<span class="small pale numbers" title="{escape(name)}">{note}</span></li>'
    )


def _words(spans: Sequence[Span]) -> str:
    return "".join(_marked_up(spans))


def _marked_up(spans: Sequence[Span]) -> Iterator[str]:
    for span in spans:
        if span.kind in ("image", "video"):
            yield f'<span class="chip">{span.num_tokens:,} {span.kind} tokens</span>'
        elif span.kind == "trained":
            yield f"<mark>{escape(span.text)}</mark>"
        else:
            yield escape(span.text)


def _medium(shown: Shown) -> str:
    item, (count, height, width, _) = shown.media, shown.frames.shape
    seconds = "" if item.start is None and item.end is None else f", {item.start or 0:g} s to {_end(item.end)}"
    what = f"{count} frames, " if item.kind == "video" else ""
    frames = "".join(
        f'<img alt="frame {number}" src="{_data_uri(Image.fromarray(frame), "JPEG")}">'
        for number, frame in enumerate(shown.frames, start=1)
    )
    return (
        f'<figure class="medium {"clip" if item.kind == "video" else "picture"}"><figcaption class="small">'
        f'<b title="{escape(item.path)}">{escape(Path(item.path).name)}</b>{seconds} '
        f'<span class="pale">{what}{width} x {height} pixels</span></figcaption>'
        f'<div class="frames">{frames}</div></figure>'
    )


def _end(seconds: float | None) -> str:
    return "the end" if seconds is None else f"{seconds:g} s"


def _short(name: str) -> str:
    """`folder/train.json row 3` without the folder."""
    return name.rpartition("/")[2]


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _data_uri(picture: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
