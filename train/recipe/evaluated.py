"""The names of the sources to evaluate on, and of what an evaluation measures."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from data.sources.source import is_address

LOSS, ACCURACY = "loss", "accuracy"
ENDING = re.compile(r"\.(jsonl?|parquet|arrow|tar)$", re.IGNORECASE)
LONGEST = 64  # letters of a name


def names_of(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the name of each source, its own or that of its file; of equal ones the second becomes `name-2`."""
    names: list[str] = []
    given = {source.get("name") for source in sources}
    for source in sources:
        own = source.get("name")
        short = own or _name_of_file(str(source.get("path", "")))
        taken = {*names, *(given - {own})}
        numbered = (f"{short}-{number}" for number in range(2, len(sources) + 2))
        names.append(short if own or short not in taken else next(name for name in numbered if name not in taken))
    return names


def measures(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what an evaluation measures, as training.metric_for_best_model names it."""
    if not any(source.get("metric") for source in sources):
        return [LOSS]
    names = list(zip(names_of(sources), sources, strict=True))
    return [
        *(LOSS, ACCURACY),
        *(f"{name}/{ACCURACY}" for name, source in names if source.get("metric")),
        *(f"{name}/{LOSS}" for name, _ in names),
    ]


def _name_of_file(path: str) -> str:
    """Return a file's name without its ending, in signs that every file system takes; without an address's key."""
    last = PurePath(urlsplit(path).path if is_address(path) else path).name
    return re.sub(r"[^\w.+-]+", "-", ENDING.sub("", last)).strip("-.+")[:LONGEST] or "data"
