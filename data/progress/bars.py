"""Bars of parts that take long, one at a time: in a terminal below the lines, elsewhere a line every half a minute.

Parts within parts are shown in their places. A part that is over in a second is never shown.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from data.command import is_first_rank, unread_is_fine
from data.progress.durations import duration

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
logger = logging.getLogger(__name__)

UNSEEN_SECONDS = 1.0  # of a part, in which it is not worth a word
LINE_SECONDS = 30.0  # between two lines where there is no terminal
REFRESHES_PER_SECOND = 10
# Columns, of the 80 of a terminal: 26 + 20 + 21 + 9 and the blanks between them
BAR_WIDTH, WORDS_WIDTH = 20, 26
ERASE_LINE = "\r\x1b[2K"
NARROW = 12  # columns in which words would be cut or stand below each other: there the terminal breaks lines itself
INDENT = " " * 6  # of what does not fit on a line
BYTES = "B"
GB = 1e9


@dataclass
class Bar:
    """A part that takes long. total: None where nobody knows it; is_told: whether lines tell of it, too."""

    what: str
    total: float | None = None
    unit: str = ""
    done: float = 0
    left: str | None = None  # the time left, where somebody else reckons it
    is_told: bool = True
    delay: float = UNSEEN_SECONDS
    began: float = field(default_factory=lambda: time.monotonic())
    told: float = field(default_factory=lambda: time.monotonic())

    def advance(self, number: float = 1) -> None:
        """Count what is done; threads may do so together."""
        with SCREEN.lock:
            self.done += number
        SCREEN.look()

    def count(self) -> str:
        """Return "20/100", "3.1/14.7 GB", or "" where nothing is counted."""
        if self.unit == BYTES:
            total = "" if self.total is None else f"/{self.total / GB:.1f}"
            return f"{self.done / GB:.1f}{total} GB"
        if self.total is None:
            return f"{self.done:,.0f}" if self.done else ""
        return f"{self.done:.0f}/{self.total:.0f}"

    def time_left(self, now: float) -> str:
        """Return the time left, or what has passed where nobody knows how much is to be done."""
        if self.left is not None:
            return self.left
        passed = now - self.began
        if not self.total or not self.done:
            return duration(passed)
        return duration(passed / self.done * max(0.0, self.total - self.done))

    def line(self, now: float) -> str:
        """Return what a file is told of it."""
        count = f"{self.count()} {'' if self.unit == BYTES else self.unit}".strip()
        left = f", {self.time_left(now)} left" if self.total and self.done else ""
        return f"{self.what}: {count + ', ' if count else ''}{duration(now - self.began)}{left}"


class Screen:
    """All parts that are going on, the innermost last, and the place in a terminal in which that one is shown."""

    def __init__(self) -> None:
        self.is_on = True  # whether bars are wanted
        self._forget()

    def _forget(self) -> None:
        """Begin anew, also in a fork: its bars are its parent's, and nobody will release its locks."""
        self.lock = threading.RLock()
        self.bars: list[Bar] = []
        self._progress: Progress | None = None
        self._refreshed = 0.0
        self.is_fork = False

    def forget_in_fork(self) -> None:
        self._forget()
        self.is_fork = True
        for name in ("stdout", "stderr"):  # rich puts itself in their places while it shows something
            stream = getattr(sys, name)
            setattr(sys, name, getattr(stream, "rich_proxied_file", stream))

    def look(self, is_new: bool = False) -> None:
        """Show how far the innermost part is, unless it was shown a moment ago."""
        line = None
        with self.lock:
            now = time.monotonic()
            if not self.bars or self.is_fork or (now - self._refreshed < 1 / REFRESHES_PER_SECOND and not is_new):
                return
            self._refreshed = now
            if self.is_on and sys.stderr.isatty():
                with unread_is_fine():
                    self._draw(now)
            elif (bar := self.bars[-1]).is_told and now - bar.told >= LINE_SECONDS:
                bar.told, line = now, bar.line(now)
        if line:
            logger.info(line)  # outside: whoever writes a line has the handler's lock when it takes this one

    def _draw(self, now: float) -> None:
        """Draw the innermost part that has lasted long enough."""
        bar = next((bar for bar in reversed(self.bars) if now - bar.began >= bar.delay), None)
        if bar is None:
            self.clear()
            return
        progress = self._progress or _new_progress()
        what = bar.what if len(bar.what) <= WORDS_WIDTH else bar.what[: WORDS_WIDTH - 1] + "…"
        values = {"description": what, "total": bar.total, "completed": bar.done}
        progress.update(progress.task_ids[0], **values, count=bar.count(), left=bar.time_left(now))
        if self._progress is None:
            self._progress = progress
            progress.start()
        progress.refresh()

    def close(self, bar: Bar) -> None:
        """Take a part away; the lines, and the parts around it, stay."""
        with self.lock:
            if bar in self.bars:
                self.bars.remove(bar)
            if not self.bars:
                self.clear()
            else:
                self.look(is_new=True)

    def clear(self) -> None:
        """Leave the terminal to others."""
        with self.lock:
            progress, self._progress = self._progress, None
            if progress is not None:
                with unread_is_fine():
                    progress.stop()

    def write(self, text: str, is_error: bool = False) -> None:
        """Write lines, above a bar where there is one. In a terminal they are folded where they are too long."""
        stream = sys.stderr if is_error else sys.stdout
        with self.lock, unread_is_fine():
            if not stream.isatty():
                print(text, file=stream, flush=True)
            elif self._progress is not None:
                self._progress.console.print(folded(text), markup=False, highlight=False, no_wrap=True, crop=False)
            else:
                print(f"{ERASE_LINE if self.is_fork else ''}{folded(text)}", file=stream, flush=True)


def folded(text: str) -> str:
    """Return the text with lines that fit the terminal, their rests indented: its own breaks would split words."""
    from rich.console import Console  # not for a command's help
    from rich.text import Text

    console = Console()
    lines = []
    for line in text.splitlines():
        begin = line[: len(line) - len(line.lstrip())]
        room = console.width - len(INDENT) - len(begin)
        if Text(line).cell_len <= console.width or room < NARROW:
            lines.append(line)
        else:
            parts = Text(line.lstrip()).wrap(console, room)
            lines += [begin + (INDENT if number else "") + str(part).rstrip() for number, part in enumerate(parts)]
    return "\n".join(lines)


def _new_progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    class SteadyConsole(Console):
        """A console that leaves the cursor alone: a process that is killed could not bring it back."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(BAR_WIDTH),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[left]}"),
        console=SteadyConsole(file=sys.stderr),
        auto_refresh=False,  # a thread that prints, and a fork beside it, would hold its lock for ever
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    progress.add_task("", count="", left="")
    return progress


SCREEN = Screen()
os.register_at_fork(after_in_child=SCREEN.forget_in_fork)
atexit.register(SCREEN.clear)  # an error leaves a bar open, behind whose line it goes


def open_bar(what: str, total: float | None = None, unit: str = "", **about: object) -> Bar:
    """Open a bar, to be closed with `SCREEN.close`. Those of other ranks than the first are seen by nobody."""
    bar = Bar(what, total, unit, **about)  # pyrefly: ignore[bad-argument-type]
    if is_first_rank():
        with SCREEN.lock:
            SCREEN.bars.append(bar)
        SCREEN.look(is_new=True)
    return bar


@contextmanager
def shown(what: str, total: float | None = None, unit: str = "", is_watched: bool = False) -> Iterator[Bar]:
    """Show a part while it lasts.

    is_watched: a thread looks at it, for parts that count nothing for long. None of them may fork a worker.
    """
    bar, is_over = open_bar(what, total, unit), threading.Event()
    watcher = threading.Thread(target=_watch, args=(is_over,), daemon=True) if is_watched and is_first_rank() else None
    if watcher:
        watcher.start()
    try:
        yield bar
    finally:
        is_over.set()
        if watcher:
            watcher.join()
        SCREEN.close(bar)


def counted(items: Iterable[T], what: str, total: float | None = None, unit: str = "") -> Iterator[T]:
    """Yield the items, and show how many there were."""
    with shown(what, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()


def _watch(is_over: threading.Event) -> None:
    while not is_over.wait(1 / REFRESHES_PER_SECOND):
        SCREEN.look()
