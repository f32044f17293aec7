"""The summary of an evaluation as a table for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.errors import visible
from train.scoring.names import GRADED

WIDTH = 80  # columns, also where the output is a file
HEADINGS = {"sources": "source", "modalities": "modality"}


def print_table(summary: Mapping[str, Any]) -> None:
    """Print one line for all questions, and one for each part where there is more than one."""
    table = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    table.add_column("", overflow="fold")
    for heading in ("questions", "left out", "accuracy", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, part in _lines(summary):
        interval = part["interval"]
        table.add_row(
            Text(visible(name) + (f", {part['metric']}" if part["metric"] in GRADED else "")),
            f"{part['questions']:,}",
            f"{part['left_out']:,}",
            "-" if part["accuracy"] is None else f"{part['accuracy']:.1%}",
            "-" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}",
        )
    Console(width=WIDTH, highlight=False).print(table)


def print_judged(judged: Mapping[str, Any]) -> None:
    """Print what a judge says of each part where there is more than one."""
    lines = list(_lines(judged))
    if len(lines) == 1:
        return
    table = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    table.add_column("", overflow="fold")
    for heading in ("questions", "yes", "95 % interval", "score of 5"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, part in lines:
        low, high = part["interval"]
        share, score = f"{part['accuracy']:.1%}", f"{part['score']:.2f}"
        table.add_row(Text(visible(name)), f"{part['questions']:,}", share, f"{low:.1%} to {high:.1%}", score)
    Console(width=WIDTH, highlight=False).print(table)


def _lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name and the figures of each line: the parts first, all together last."""
    divided = [(HEADINGS[name], summary.get(name, {})) for name in HEADINGS]
    for heading, parts in [*divided, *summary.get("groups", {}).items()]:
        if len(parts) > 1:
            yield from ((f"{heading} {name}", part) for name, part in parts.items())
    yield "all", summary
