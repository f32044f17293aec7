"""Files of benchmarks: their questions in JSON, CSV and Parquet, and the clip or picture that a name stands for."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.media.locate import shown
from data.media.reference import Kind

# In this order, where several have the name. The paper's code looks for the first four; TGIF's clips are GIFs.
SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Item:
    """A question of a benchmark: `question` is the whole prompt, `media` the file of its clip or picture.

    start, end: seconds of the clip; fps: of a clip that is a folder of pictures. accept: texts for the metric of that
    name.
    """

    id: str
    question: str
    answer: str
    media: Path
    metric: str
    kind: Kind = "video"
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    accept: Sequence[str] = ()
    answers: Sequence[str] = ()
    choices: Sequence[str] = ()
    groups: Mapping[str, str] = field(default_factory=dict)


class MediaFolders:
    """The folders in which a benchmark's media may lie, each listed once.

    roots: searched in this order, each with its `inside`, the folders that the authors name.
    """

    def __init__(self, roots: Sequence[Path], inside: Iterable[str] = (), suffixes: Sequence[str] = SUFFIXES):
        self.folders = [folder for root in roots for folder in (*(root / name for name in inside), root)]
        self.suffixes = suffixes
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, *names: str, folders: Sequence[Path] | None = None) -> Path:
        """Return the file of the first name that there is, with or without its suffix, or a folder of pictures.

        Without any it is where the first would be, so that it can be named as missing.
        """
        places = self.folders if folders is None else folders
        for name in names:
            for folder in places:
                inner = folder / os.path.dirname(name)
                listed = self._names(inner)
                base = os.path.basename(name)
                for wanted in (base, *(base + suffix for suffix in self.suffixes)):
                    if found := listed.get(wanted):
                        return inner / found
        base, end = os.path.splitext(names[0])
        missing = names[0] if end.lower() in self.suffixes else names[0] + self.suffixes[0]
        return next((folder for folder in places if folder.is_dir()), places[-1]) / missing

    def _names(self, folder: Path) -> dict[str, str]:
        """Return what is in a folder, by name; suffixes in small letters too."""
        if folder not in self._listed:
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            small = {os.path.splitext(name)[0] + os.path.splitext(name)[1].lower(): name for name in names}
            self._listed[folder] = small | {name: name for name in names}
        return self._listed[folder]


def first_file(folder: Path, *patterns: str) -> Path | None:
    """Return the first file, by name, that the earliest pattern fits."""
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()), None)


def load_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises UserError."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the file: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}; download it again") from error


def load_list(path: Path, *keys: str) -> list[dict]:
    """Return the objects of a JSON file that is a list, or that has one under one of `keys`. Raises UserError."""
    value = load_json(path)
    if isinstance(value, dict):
        value = next((value[key] for key in keys if key in value), None)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise UserError(f"{path}: expected a list of objects{' under ' + ' or '.join(keys) if keys else ''}")
    return value


def load_csv(path: Path, needed: Sequence[str], delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Yield the lines of a CSV file with a heading. Raises UserError where a column is missing."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
            reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting)
            if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path}: has no column {', '.join(missing)}; its columns are {reader.fieldnames}")
            for number, line in enumerate(reader, start=1):
                if any(line[name] is None for name in needed):
                    raise UserError(f"{path} line {number + 1}: is shorter than the heading; download the file again")
                yield line
    except OSError as error:
        raise UserError(f"{path}: cannot read the file: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a table in UTF-8: {error}; download it again") from error


def text(record: Mapping[str, Any], where: str, *keys: str) -> str:
    """Return the text under the first of `keys` that a record has; numbers are texts. Raises UserError."""
    for key in keys:
        value = record.get(key)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value).strip()
    raise UserError(f"{where}: needs a text in {' or '.join(map(repr, keys))}; got {shown(record)}")


def texts(record: Mapping[str, Any], where: str, *keys: str) -> list[str]:
    """Return the list of texts under the first of `keys` that a record has. Raises UserError."""
    for key in keys:
        value = record.get(key)
        if isinstance(value, list) and value and all(isinstance(each, str | int | float) for each in value):
            return [str(each) for each in value]
    raise UserError(f"{where}: needs a list of texts in {' or '.join(map(repr, keys))}; got {shown(record)}")


def seconds(record: Mapping[str, Any], where: str, key: str) -> float:
    """Return a number of seconds. Raises UserError."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}, {key}: expected seconds, got {shown(value)}")
    return float(value)


def lettered(options: Sequence[str], form: str = "{}. {}") -> str:
    """Return options as lines with their letters."""
    return "\n".join(form.format(chr(ord("A") + place), option) for place, option in enumerate(options))
