"""The summary of an evaluation as a table for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.errors import visible
from train.scoring.names import GRADED

WIDTH = 80  # columns, also where the output is a file
LONGEST = 100  # letters of a question or an answer in a cell
HEADINGS = {"sources": "source", "modalities": "modality"}


def print_table(summary: Mapping[str, Any]) -> None:
    """Print one line for all questions, and one for each part where there is more than one."""
    table = _table("questions", "left out", "accuracy", "95 % interval")
    for name, part in _lines(summary):
        interval = part["interval"]
        table.add_row(
            Text(visible(name) + (f", {part['metric']}" if part["metric"] in GRADED else "")),
            f"{part['questions']:,}",
            f"{part['left_out']:,}",
            "-" if part["accuracy"] is None else f"{part['accuracy']:.1%}",
            "-" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}",
        )
    _print(table)


def print_judged(judged: Mapping[str, Any]) -> None:
    """Print what a judge says of each part where there is more than one."""
    lines = list(_lines(judged))
    if len(lines) == 1:
        return
    table = _table("questions", "yes", "95 % interval", "score of 5")
    for name, part in lines:
        low, high = part["interval"]
        share, score = f"{part['accuracy']:.1%}", f"{part['score']:.2f}"
        table.add_row(Text(visible(name)), f"{part['questions']:,}", share, f"{low:.1%} to {high:.1%}", score)
    _print(table)


def print_compared(compared: Mapping[str, Any]) -> None:
    """Print what `train.scoring.comparison.compare` tells, and the first questions that were won and lost."""
    print(f"against {visible(str(compared['file']))}")
    table = _table("questions", "here", "there", "won", "lost", "tied", "McNemar's p")
    counts = (f"{compared[name]:,}" for name in ("wins", "losses", "ties"))
    shares = (f"{compared[name]:.1%}" for name in ("accuracy", "accuracy_there"))
    table.add_row("both", f"{compared['questions']:,}", *shares, *counts, f"{compared['p']:.3g}")
    _print(table)
    if compared["only_here"] or compared["only_there"]:
        print(f"not compared: {compared['only_here']:,} only here, {compared['only_there']:,} only there")
    changed = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    for heading in ("", "question", "expected", "here", "there"):
        changed.add_column(heading, overflow="fold")
    for name, some in compared["changed"].items():
        for each in some:
            asked = f"{each['id']}: {each['question']}"
            cells = (name, asked, each["expected"], each["here"], each["there"])
            changed.add_row(*(Text(visible(_short(str(cell)))) for cell in cells))
    if changed.row_count:
        _print(changed)


def _table(*headings: str) -> Table:
    """Return a table of figures, whose first column has the names of its lines."""
    table = Table(box=None, pad_edge=False, show_edge=False, expand=False)
    table.add_column("", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _print(shown: Table) -> None:
    Console(width=WIDTH, highlight=False).print(shown)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name and the figures of each line: the parts first, all together last."""
    divided = [(HEADINGS[name], summary.get(name, {})) for name in HEADINGS]
    for heading, parts in [*divided, *summary.get("groups", {}).items()]:
        if len(parts) > 1:
            yield from ((f"{heading} {name}", part) for name, part in parts.items())
    yield "all", summary
