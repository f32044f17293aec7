"""JSON files, and what records of all formats become: one at a time, with a name for messages."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from data.errors import UserError
from data.media.reference import Part, Segment


@dataclass(frozen=True, slots=True)
class Record:
    """A data file's object about one conversation, which need not be sound, and its name in messages.

    members: see `Locator`; None where a record names files.
    """

    content: Any
    name: str
    members: Mapping[str, tuple[str, Segment | Part]] | None = field(default=None, repr=False)


def read_json(path: str, on_problem: Callable[[UserError], None]) -> Iterator[Record]:
    """Read a list, or an object a line; a line that is not JSON is a problem, and takes a number as the others do."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            if _first_character(file) == "[":
                for number, record in enumerate(json.load(file), start=1):
                    yield Record(record, f"{path} record {number}")
                return
            count = 0
            for number, line in enumerate(file, start=1):
                if line.strip():
                    count += 1
                    try:
                        record = json.loads(line)
                    except json.JSONDecodeError as problem:
                        name = f"{path} line {number}"
                        on_problem(UserError(f"{name}: not JSON: {problem}").about(name))
                        continue
                    yield Record(record, f"{path} record {count}")
    except json.JSONDecodeError as problem:
        on_problem(UserError(f"{path}: not JSON: {problem}"))
    except UnicodeDecodeError as problem:
        on_problem(UserError(f"{path}: not a text file in UTF-8 (byte {problem.start})"))
    except OSError as problem:
        on_problem(UserError(f"{path}: cannot read the data file: {problem.strerror}"))


def _first_character(file: TextIO) -> str:
    while (character := file.read(1)).isspace():
        pass
    file.seek(0)
    return character
