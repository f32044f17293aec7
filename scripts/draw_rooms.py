"""Draw CONTRIBUTING.md's picture of the rooms, .github/images/rooms.svg, from the table of who may import whom.

python scripts/draw_rooms.py

An arrow leads from a room to those that use it. Arrows that follow from others are left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.unit.test_layout_rules import MAY_IMPORT

PICTURE = Path(__file__).parent.parent / ".github" / "images" / "rooms.svg"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 124, 30, 22, 34, 12  # pixels of a box, between boxes, around all
THIN = 18  # pixels that a passing arrow takes in a line of boxes
TEXT = "#7d8590"  # readable on white and on black, as are the colours of the boxes
COLOURS = {"data": "#3b82d0", "train": "#d9822b"}
WORDS = "the rooms of data/ and train/, in the order in which data flow"
SWEEPS = 4  # over the lines, each ordered by where its arrows come from; more change nothing

Rooms = Mapping[str, Sequence[str]]
Node = tuple[str, ...]  # (room,), or (from, to, line) where an arrow passes a line of boxes


def direct(rooms: Rooms) -> dict[str, list[str]]:
    """Return each room's imports without those that another of its imports has already."""
    seen: dict[str, set[str]] = {}
    for room, others in rooms.items():  # the table is in the order of imports
        seen[room] = set(others).union(*(seen[other] for other in others))
    return {
        room: [other for other in others if not any(other in seen[each] for each in others)]
        for room, others in rooms.items()
    }


def lines_of(edges: Rooms) -> dict[str, int]:
    """Return the line of each room: one below the lowest that it imports."""
    lines: dict[str, int] = {}
    for room, others in edges.items():
        lines[room] = 1 + max((lines[other] for other in others), default=-1)
    return lines


def arrange(edges: Rooms) -> tuple[list[list[Node]], list[list[Node]]]:
    """Return the nodes of each line from left to right, and each arrow's way through the lines."""
    lines = lines_of(edges)
    table: list[list[Node]] = [[] for _ in range(max(lines.values()) + 1)]
    for room, line in lines.items():
        table[line].append((room,))
    ways: list[list[Node]] = []
    for room, others in edges.items():
        for other in others:
            passed: list[Node] = [(other, room, str(line)) for line in range(lines[other] + 1, lines[room])]
            for node in passed:
                table[int(node[2])].append(node)
            ways.append([(other,), *passed, (room,)])
    above: dict[Node, list[Node]] = {}
    for way in ways:
        for upper, lower in zip(way, way[1:], strict=False):
            above.setdefault(lower, []).append(upper)
    for _ in range(SWEEPS):
        x = centres(table)
        for line in table[1:]:
            line.sort(key=lambda node: sum(x[each] for each in above[node]) / len(above[node]) if node in above else 0)
            x = centres(table)
    return table, ways


def centres(table: Sequence[Sequence[Node]]) -> dict[Node, float]:
    """Return the x of each node's centre; every line is centred on 0."""
    x: dict[Node, float] = {}
    for line in table:
        widths = [WIDTH if len(node) == 1 else THIN for node in line]
        left = -(sum(widths) + GAP_X * (len(widths) - 1)) / 2
        for node, width in zip(line, widths, strict=True):
            x[node] = left + width / 2
            left += width + GAP_X
    return x


def curve(points: Sequence[tuple[float, float]]) -> str:
    """Return an SVG path through (x, top of a line) points that leaves and enters every line vertically."""
    (x, y), *rest = points
    path = f"M{x:g} {y + HEIGHT:g}"
    for number, (x2, y2) in enumerate(rest, start=1):
        y1, is_last = y + HEIGHT, number == len(rest)
        path += f" C{x:g} {y1 + GAP_Y / 2:g} {x2:g} {y2 - GAP_Y / 2:g} {x2:g} {y2 - 3 * is_last:g}"
        path += "" if is_last else f" V{y2 + HEIGHT:g}"
        x, y = x2, y2
    return path


def rooms_svg(rooms: Rooms = MAY_IMPORT) -> str:
    table, ways = arrange(direct(rooms))
    x = centres(table)
    y = {node: MARGIN + number * (HEIGHT + GAP_Y) for number, line in enumerate(table) for node in line}
    left = min(x.values()) - WIDTH / 2 - MARGIN
    width = 2 * -left
    height = MARGIN * 2 + len(table) * HEIGHT + (len(table) - 1) * GAP_Y
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:g} 0 {width:g} {height}" width="{width:g}" '
        f'height="{height}" font-family="sans-serif" font-size="13" role="img" aria-label="{WORDS}">',
        f'<defs><marker id="head" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L6 3L0 6z" fill="{TEXT}"/></marker></defs>',
    ]
    for way in ways:
        path = curve([(x[node], y[node]) for node in way])
        drawn.append(f'<path d="{path}" fill="none" stroke="{TEXT}" stroke-width="1.2" marker-end="url(#head)"/>')
    for line in table:
        for node in line:
            if len(node) == 1:
                drawn.append(box(node[0], x[node] - WIDTH / 2, y[node]))
    return "\n".join([*drawn, "</svg>\n"])


def box(room: str, x: float, y: float) -> str:
    colour = COLOURS[room.partition(".")[0]]
    name = "train/sft.py" if room == "train.sft" else room.replace(".", "/") + "/"
    return (
        f'<g class="room"><rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{colour}"/>'
        f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 5:g}" text-anchor="middle" fill="#ffffff">{name}</text></g>'
    )


if __name__ == "__main__":
    PICTURE.write_text(rooms_svg(), encoding="utf-8")
    print(f"wrote {PICTURE}")
