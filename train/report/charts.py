"""Curves as SVG that is as wide as its place: shapes are stretched, words, lines and dots are not.

Shapes have coordinates of 0 to 1000 in both directions, the rest has percentages.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matplotlib.ticker import MaxNLocator

SIDE = 1000  # units of the plane in which shapes are drawn
MAX_POINTS = 400  # of a curve: more are not seen, and a run may log a million
MAX_DOTS = 40  # more would be a line
MAX_COLOURS = 6  # of curves, which then begin anew
TICKS = {"nbins": 4, "steps": [1, 2, 2.5, 5, 10]}

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A line through (step, value); bands: (step, low, high) around it. is_faint: it stands behind another."""

    label: str
    points: Sequence[Point]
    bands: Sequence[tuple[float, float, float]] = ()
    is_faint: bool = False
    colour: int = 0


@dataclass(frozen=True)
class Chart:
    """Curves with one scale. said: how to write a value. floor, ceiling: values that the scale includes."""

    title: str
    curves: Sequence[Curve]
    said: Callable[[float], str]
    floor: float | None = None
    ceiling: float | None = None


@dataclass(frozen=True)
class DrawnCurve:
    """A curve as SVG: `line` and `band` are the points of shapes, `dots` are (left %, top %, words)."""

    label: str
    colour: int
    is_faint: bool
    line: str
    band: str
    dots: Sequence[tuple[float, float, str]]


@dataclass(frozen=True)
class Drawn:
    """A chart as SVG: marks of the scales are (%, words)."""

    title: str
    said: str
    curves: Sequence[DrawnCurve]
    steps: Sequence[tuple[float, str]] = field(default_factory=list)
    values: Sequence[tuple[float, str]] = field(default_factory=list)


def draw(chart: Chart) -> Drawn | None:
    """Lay a chart out; None where no curve has a value that is finite."""
    curves = [Curve(c.label, thinned(finite(c.points)), c.bands, c.is_faint, c.colour) for c in chart.curves]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    across = [step for curve in curves for step, _ in curve.points]
    up = [value for curve in curves for _, value in curve.points]
    up += [end for curve in curves for _, *ends in curve.bands for end in ends]
    up += [end for end in (chart.floor, chart.ceiling) if end is not None]
    left, right, _ = scale(min(across), max(across), whole=True)
    low, high, marks = scale(min(up), max(up))
    steps = [mark for mark in MaxNLocator(integer=True, **TICKS).tick_values(left, right) if left <= mark <= right]

    def place(point: Point) -> Point:
        step, value = point
        return _share(step, left, right) * 100, (1 - _share(value, low, high)) * 100

    return Drawn(
        chart.title,
        in_words(chart, curves),
        [_drawn(curve, place, chart.said) for curve in curves],
        [(place((mark, low))[0], f"{mark:,.0f}") for mark in steps],
        [(place((left, mark))[1], chart.said(mark)) for mark in marks],
    )


def _drawn(curve: Curve, place: Callable[[Point], Point], said: Callable[[float], str]) -> DrawnCurve:
    placed = [place(point) for point in curve.points]
    low = [place((step, low)) for step, low, _ in curve.bands]
    high = [place((step, high)) for step, _, high in curve.bands]
    dots = [] if curve.is_faint or len(placed) > MAX_DOTS else zip(placed, curve.points, strict=True)
    return DrawnCurve(
        curve.label,
        curve.colour % MAX_COLOURS,
        curve.is_faint,
        _shape(placed),
        _shape([*high, *reversed(low)]),
        [(x, y, f"{curve.label}, step {step:,.0f}: {said(value)}") for (x, y), (step, value) in dots],
    )


def _shape(placed: Sequence[Point]) -> str:
    return " ".join(f"{x * SIDE / 100:.1f},{y * SIDE / 100:.1f}" for x, y in placed)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low)


def scale(low: float, high: float, whole: bool = False) -> tuple[float, float, list[float]]:
    """Return the ends of a scale that holds both values, and its marks. whole: between the values, without a margin."""
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    if whole:
        return low, high, []
    marks = [float(mark) for mark in MaxNLocator(**TICKS).tick_values(low, high)]
    return min(low, marks[0]), max(high, marks[-1]), marks


def finite(points: Sequence[Point]) -> list[Point]:
    return [(step, value) for step, value in points if math.isfinite(step) and math.isfinite(value)]


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most MAX_POINTS points: the means of as many points that follow one another, and the last one."""
    if len(points) <= MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MAX_POINTS - 1))
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    means = [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
    return [*means[:-1], means[-1], points[-1]][:MAX_POINTS]


def in_words(chart: Chart, curves: Sequence[Curve]) -> str:
    """Say what a chart shows, for those who do not see it."""
    told = []
    for curve in curves:
        (first_step, first), (last_step, last) = curve.points[0], curve.points[-1]
        text = f"{curve.label} {chart.said(first)} at step {first_step:,.0f}"
        told += [] if curve.is_faint else [text + f", {chart.said(last)} at step {last_step:,.0f}"]
    return f"{chart.title}: {'; '.join(told)}"
