"""Draw the README's picture of the attention mask, .github/images/shared_prefix_mask.svg, from the mask itself.

python scripts/draw_mask.py
"""

from itertools import accumulate, pairwise
from pathlib import Path

from data.packing.layout import RowLayout, dense_mask

PICTURE = Path(__file__).parent.parent / ".github" / "images" / "shared_prefix_mask.svg"
LAYOUT = RowLayout(((7, (4, 3, 4)), (4, (3, 2))))
CELL, TOP, LEFT = 15, 34, 116  # pixels
TEXT = "#7d8590"  # readable on white and on black, as are the colours of the cells
PREFIX, QUESTIONS = "#8b949e", ("#3b82d0", "#d9822b", "#3fa45b")
WORDS = "two clips and five questions in one row: each line's token sees the coloured keys"


def spans(layout: RowLayout) -> list[tuple[str, str, int, int]]:
    """Return (name, colour, start, end) of each prefix and suffix, in the order of the tokens."""
    named: list[tuple[str, str, int]] = []
    for clip, (prefix_length, suffix_lengths) in enumerate(layout.groups):
        named.append((f"clip {'AB'[clip]}", PREFIX, prefix_length))
        for number, length in enumerate(suffix_lengths):
            named.append((f"question {'AB'[clip]}{number + 1}", QUESTIONS[number], length))
    edges = pairwise(accumulate((length for *_, length in named), initial=0))
    return [(name, colour, start, end) for (name, colour, _), (start, end) in zip(named, edges, strict=True)]


def cells(layout: RowLayout) -> list[str]:
    """Draw a square for each (query, key) that the mask lets through, pale where a question sees its clip."""
    drawn = []
    owner = [span for span in spans(layout) for _ in range(span[2], span[3])]
    for query, key in dense_mask(layout).nonzero().tolist():
        _, colour, start, _ = owner[query]
        x, y = LEFT + key * CELL + 1, TOP + query * CELL + 1
        opacity = "" if key >= start else ' opacity="0.45"'
        drawn.append(f'<rect class="seen" x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" rx="2" '
                     f'fill="{colour}"{opacity}/>')  # fmt: skip
    return drawn


def labels(layout: RowLayout) -> list[str]:
    """Draw the name of each span left of its lines, and a bar of its colour above its columns."""
    drawn = []
    for name, colour, start, end in spans(layout):
        y = TOP + (start + end) / 2 * CELL + 4
        drawn.append(f'<text x="{LEFT - 10}" y="{y:g}" text-anchor="end">{name}</text>')
        drawn.append(f'<rect x="{LEFT + start * CELL + 1}" y="{TOP - 9}" width="{(end - start) * CELL - 2}" height="4" '
                     f'rx="2" fill="{colour}"/>')  # fmt: skip
    return drawn


def mask_svg(layout: RowLayout = LAYOUT) -> str:
    """Return the picture, with a legend."""
    edge = sum(layout.group_lengths) * CELL
    width, height = LEFT + edge + 10, TOP + edge + 34
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="sans-serif" font-size="12" fill="{TEXT}" role="img" aria-label="{WORDS}">',
            f'<text x="{LEFT}" y="16">keys</text>',
            f'<rect x="{LEFT}" y="{TOP}" width="{edge}" height="{edge}" fill="none" stroke="{TEXT}" opacity="0.5"/>',
            *labels(layout),
            *cells(layout),
            f'<text x="{width / 2:g}" y="{height - 10}" text-anchor="middle">{WORDS}</text>',
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(mask_svg(), encoding="utf-8")
    print(f"wrote {PICTURE}")
