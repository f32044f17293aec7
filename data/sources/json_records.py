"""JSON files, and what records of all formats become: one at a time, with a name for messages.

A list is read as lines are, a record at a time: neither its length nor a bad record costs more than itself.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

from data.errors import UserError, visible
from data.media.reference import Part, Segment
from data.sources.guard import MAX_RECORD, TooLargeRecord, about_record, check_size

PIECE = 2**20  # letters that are read at once; a value within them needs no search for its end
MAX_KEY = 2**10  # letters of a key of the object that may stand around records
MAX_STEPS = 10**7  # brackets, commas and quotes that are looked at to find a record's end: some seconds
BLANKS = re.compile(r"[ \t\n\r]*")
FIRST_ENTRY = re.compile(r"\[[ \t\n\r]*([^ \t\n\r])")
OUTSIDE, INSIDE = re.compile(r'["\[\]{},]'), re.compile(r'["\\]')  # what ends a value, and a string
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
UNPACKED_BY = {b"\x1f\x8b": "gunzip", b"PK": "unzip", b"\x28\xb5": "unzstd"}  # by how such a file begins
DECODER = json.JSONDecoder()


@dataclass(slots=True)  # one is made of each record, and frozen ones take much longer
class Record:
    """A data file's object about one conversation, which need not be sound, and its name in messages.

    members, own: see `Locator`; members is None where a record names files. unread: names of a table's columns whose
    values were not read.
    """

    content: Any
    name: str
    members: Mapping[str, tuple[str, Segment | Part]] | None = field(default=None, repr=False)
    own: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def read_json(
    path: str, on_problem: Callable[[UserError], None], is_chosen: Callable[[], bool] = lambda: True
) -> Iterator[Record]:
    """Read a list, or an object a line; what is not JSON is a problem, and takes a number as the others do.

    is_chosen: is asked of each record in turn, and the others are left out: lines are not looked at.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
            if program := UNPACKED_BY.get(head[:2]):
                return on_problem(UserError(f"{path}: is compressed; unpack it ({program})"))
            if head[:2] in UTF_16 or b"\0" in head:
                return on_problem(UserError(f"{path}: not a text file in UTF-8 (byte 0)"))
        # Bytes that are not UTF-8 become surrogates, so that they cost their own record alone.
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            letters = Letters(file)
            if letters.peek() == "[":
                yield from filter(lambda record: is_chosen(), read_list(letters, path, on_problem))
            elif letters.enter_data():
                yield from filter(lambda record: is_chosen(), read_list(letters, path, on_problem, is_wrapped=True))
            else:
                file.seek(0)
                yield from _read_lines(file, path, on_problem, is_chosen)
    except OSError as problem:
        on_problem(UserError(f"{path}: cannot read the data file: {problem.strerror}"))


def _read_lines(
    file: TextIO, path: str, on_problem: Callable[[UserError], None], is_chosen: Callable[[], bool]
) -> Iterator[Record]:
    count = number = 0
    while line := file.readline(MAX_RECORD + 1):
        number += 1
        if len(line) > MAX_RECORD:
            while (rest := file.readline(PIECE)) and not rest.endswith("\n"):
                pass
        elif line.isspace():
            continue
        count += 1
        if count == 1 and line.strip() == "{":
            advice = "write a list of records, or each on a line of its own (jq -c .)"
            return on_problem(UserError(f"{path}: begins with an object over several lines; {advice}"))
        if not is_chosen():
            continue
        name = f"{path} line {number}"
        try:
            with about_record(name):
                record = parsed(line, name)
        except UserError as problem:
            on_problem(problem)
        else:
            yield Record(record, f"{path} record {count}")


def parsed(text: str, name: str) -> Any:
    """Return the JSON value of a text that `name` names. Raises UserError, and what `about_record` takes."""
    check_size(text)
    _check_unicode(text)
    try:
        value, end = DECODER.raw_decode(text)  # faster than json.loads, which allows for blanks around it
    except ValueError:
        value, end = None, -1
    try:
        value = value if end > 0 and text[end:] in ("", "\n") else json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: not JSON: {error}") from None
    _check_keys(value, text, name)
    return value


def _check_keys(value: Any, text: str, name: str) -> None:
    """Raise UserError where an object has a key twice: decoders keep the last, which may be the wrong one.

    Counting is cheaper than a decoder that looks at each key.
    """
    if _num_keys(value) != text.count('":'):
        json.loads(text, object_pairs_hook=partial(_refuse_repeated, name))


def _num_keys(value: Any) -> int:
    number, parts = 0, [value]
    for part in parts:
        if type(part) is dict:  # of all that JSON makes, and faster than isinstance
            number += len(part)
            parts.extend(part.values())
        elif type(part) is list:
            parts.extend(part)
    return number


def _refuse_repeated(name: str, pairs: list[tuple[str, Any]]) -> None:
    if len(found := Counter(key for key, _ in pairs)) != len(pairs):
        raise UserError(f"{name}: its key {found.most_common(1)[0][0]!r} is given twice; keep one")


def _check_unicode(text: str) -> None:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not text in UTF-8 ({text[error.start]!a} at letter {error.start + 1})") from None


class Letters:
    """The letters of a file from a place on; what lies before that is forgotten."""

    def __init__(self, file: TextIO):
        self.file, self.text, self.at, self.is_long = file, "", 0, False

    def read_on(self) -> bool:
        """Read as much again as there is, so that long values cost no more than their length; tell if there was any."""
        rest = self.text[self.at :]
        new = self.file.read(max(PIECE, len(rest)))
        self.text, self.at = rest + new, 0
        return bool(new)

    def peek(self) -> str:
        """Return the next letter that is no blank, "" at the end, and go there."""
        while True:
            found = BLANKS.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or not self.read_on():
                return self.text[self.at : self.at + 1]

    def value(self, name: str) -> Any:
        """Return the JSON value that begins here, in a list, and go to what follows it.

        Raises UserError, and what `about_record` takes, at the same place.
        """
        if len(self.text) - self.at <= 2 * PIECE:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except Exception:  # it goes on behind these letters, or is wrong, and `parsed` says how
                value, end = None, len(self.text)
            if (found := BLANKS.match(self.text, end)) and self.text[found.end() : found.end() + 1] in (",", "]"):
                text, self.at = self.text[self.at : end], found.end()
                _check_unicode(text)
                _check_keys(value, text, name)
                return value
        return parsed(self._take(), name)

    def enter_data(self) -> bool:
        """Go to the list of objects under "data" in the object that is next, and tell whether there is one."""
        self.at += self.peek() == "{"
        while self.peek() == '"':
            try:
                key = self._key()
                if self.peek() != ":":
                    return False
                self.at += 1
                if key == "data" and self.peek() == "[":
                    return self._lists_objects()
                self._take(",}")
            except ValueError:  # what is wrong shows when it is read as a line
                return False
            self.at += self.peek() == ","
        return False

    def _key(self) -> str:
        """Return the text that is next, and go behind it. Raises ValueError where it is not whole."""
        while True:
            try:
                key, self.at = DECODER.raw_decode(self.text, self.at)
                return key
            except ValueError:
                if len(self.text) - self.at > MAX_KEY or not self.read_on():
                    raise

    def _lists_objects(self) -> bool:
        """Tell whether the list that is next has an object for its first entry, or no entry."""
        while not (found := FIRST_ENTRY.match(self.text, self.at)):
            if not self.read_on():
                return False
        return found[1] in "{]"

    def leave_object(self) -> bool:
        """Go behind the end of the object that we are in; tell whether it has one."""
        self._take("}")
        self.at += 1
        return self.text[self.at - 1 : self.at] == "}"

    def _take(self, ends: str = ",]") -> str:
        """Return the text up to the comma or bracket that ends the value, and go there. Raises TooLargeRecord."""
        end, depth, is_string, self.is_long = self.at, 0, False, False
        for _ in range(MAX_STEPS):
            letter, end = self._find(INSIDE if is_string else OUTSIDE, end)
            if not letter or (letter in ends and depth == 0 and not is_string):
                start, self.at = self.at, end - len(letter)
                if self.is_long:
                    raise TooLargeRecord
                return self.text[start : self.at]
            if letter == '"':
                is_string = not is_string
            elif letter == "\\":
                end += 1
            elif letter != ",":
                depth = depth + 1 if letter in "[{" else max(0, depth - 1)
        self.text, self.at = "", 0
        self.file.seek(0, 2)
        raise TooLargeRecord("has too many brackets and texts; it and what follows it in the file are not read")

    def _find(self, letters: re.Pattern, end: int) -> tuple[str, int]:
        """Return the next of some letters from `end` on and the place behind it, "" at the file's end.

        What is too long to be kept is forgotten meanwhile.
        """
        while not (found := letters.search(self.text, end)):
            if len(self.text) - self.at > MAX_RECORD:
                self.at, self.is_long = len(self.text), True
            end = max(end, len(self.text)) - self.at  # an escaped letter may lie behind what was read
            if not self.read_on():
                return "", len(self.text)
        return found[0], found.end()


def read_list(
    letters: Letters, name: str, on_problem: Callable[[UserError], None], is_wrapped: bool = False
) -> Iterator[Record]:
    """Read the records of a JSON list, which is next. is_wrapped: an object around it is all that follows it."""
    letters.peek()
    letters.at += 1
    number = 0
    while (letter := letters.peek()) == "," or not number:
        if letter == "]":  # it is empty
            break
        letters.at += number > 0
        number += 1
        record = f"{name} record {number}"
        try:
            with about_record(record):
                value = _next_value(letters, record)
        except UserError as problem:
            if not letters.peek():
                reason = str(problem).removeprefix(f"{visible(record)}: ")
                return on_problem(UserError(f"{name}: ends within record {number}: {reason}"))
            on_problem(problem)
        else:
            yield Record(value, record)
    if letter != "]":
        return on_problem(UserError(f"{name}: not JSON: ends before the bracket that closes its list; copy it again"))
    letters.at += 1
    if is_wrapped and not letters.leave_object():
        return on_problem(UserError(f"{name}: not JSON: ends before the brace that closes its object; copy it again"))
    if letters.peek():
        end = "its object" if is_wrapped else "the bracket that closes its list"
        on_problem(UserError(f"{name}: not JSON: something stands behind {end}"))


def _next_value(letters: Letters, name: str) -> Any:
    letters.peek()
    return letters.value(name)
