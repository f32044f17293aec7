"""Patience with the machine: a file that could not be tried is tried again, and never blamed for it."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from data.errors import OutageError

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Seconds between tries, a minute and a half in all: a server is restarted, a disk is cleared by a job that ends. Other
# ranks wait meanwhile, for ten minutes at least before their libraries give up.
PAUSES = (1.0, 5.0, 20.0, 60.0)


def patiently(function: Callable[..., T], *arguments: Any) -> T:
    """Return function(*arguments), tried again after each of PAUSES while it raises OutageError.

    Raises the last one, which says that the run goes on where it was.
    """
    for pause in PAUSES:
        try:
            return function(*arguments)
        except OutageError as problem:
            logger.warning(f"waiting {pause:g} s: {problem}")
        time.sleep(pause)
    try:
        return function(*arguments)
    except OutageError as problem:
        tried = f"tried {len(PAUSES) + 1} times in {sum(PAUSES):g} seconds"
        raise OutageError(f"{problem} ({tried}); when that has passed, the same command goes on") from problem
