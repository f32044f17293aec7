"""Data files of all formats -> their rows, one at a time."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.errors import UserError
from data.media.reference import Part, Segment


@dataclass(frozen=True, slots=True)
class Row:
    """A record, which need not be a sound one, and what it is called in messages. members: see `Locator`; None where
    a record names files."""

    record: Any
    name: str
    members: Mapping[str, tuple[str, Segment | Part]] | None = field(default=None, repr=False)


def read_json(path: str, on_problem: Callable[[UserError], None]) -> Iterator[Row]:
    """A list, or an object a line; a line that is not JSON is a problem and counts as a row."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            if _first_character(file) == "[":
                for number, record in enumerate(json.load(file), start=1):
                    yield Row(record, f"{path} row {number}")
                return
            row = 0
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row += 1
                    try:
                        record = json.loads(line)
                    except json.JSONDecodeError as problem:
                        name = f"{path} line {number}"
                        on_problem(UserError(f"{name}: not JSON: {problem}").about(name))
                        continue
                    yield Row(record, f"{path} row {row}")
    except json.JSONDecodeError as problem:
        on_problem(UserError(f"{path}: not JSON: {problem}"))
    except UnicodeDecodeError as problem:
        on_problem(UserError(f"{path}: not a text file in UTF-8 (byte {problem.start})"))
    except OSError as problem:
        on_problem(UserError(f"{path}: cannot read the data file: {problem.strerror}"))


def _first_character(file) -> str:
    while (character := file.read(1)).isspace():
        pass
    file.seek(0)
    return character
