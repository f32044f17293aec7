"""A logger with ranks: the first shows the user all that both packages log, another one warnings with its number."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from data.command import is_first_rank
from data.progress.bars import SCREEN

PACKAGES = ("data", "train")


class Lines(logging.Handler):
    """Shows each record as it was said, above a bar where there is one."""

    def __init__(self, answers_on_stdout: bool):
        super().__init__()
        self.answers_on_stdout = answers_on_stdout
        self.words = "" if is_first_rank() else f"rank {os.environ['RANK']}: "

    def emit(self, record: logging.LogRecord) -> None:
        is_error = self.answers_on_stdout or record.levelno >= logging.WARNING
        SCREEN.write(self.words + self.format(record), is_error)


def start_logging(answers_on_stdout: bool = False, bars: bool = True) -> None:
    """Show what the packages log from now on: notices on stdout, warnings on stderr.

    answers_on_stdout: a command's result is what it prints, so that all else goes to stderr. bars: whether they are
    wanted in a terminal.
    """
    SCREEN.is_on = bars
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO if is_first_rank() else logging.WARNING)
        logger.handlers = [Lines(answers_on_stdout)]
        logger.propagate = False  # a library that sets up the root's would repeat everything


@contextmanager
def heard(name: str) -> Iterator[list[str]]:
    """Keep what a logger is told, in place of showing it."""
    logger, lines = logging.getLogger(name), []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    level, logger.propagate = logger.level, False
    logger.setLevel(logging.INFO)
    logger.addHandler(ear := Ear())
    try:
        yield lines
    finally:
        logger.removeHandler(ear)
        logger.propagate = True
        logger.setLevel(level)
