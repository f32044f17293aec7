"""A file of answers that grows while a model answers, and that a second start goes on with.

Answers are appended as they come. Beside the file, `.NAME.unfinished.json` says which model, questions and settings
they belong to. At the end the answers are put in the order of the questions, and that note goes.
"""

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from data.errors import UserError, in_words, way_out
from data.files import remove_killed, write_whole

NOTE = ".unfinished.json"  # behind a dot and the name of the file of answers


class AnswerFile:
    """The answers to some questions, each a JSON object that begins with what `keys` has for its question.

    `identity` is everything on which the answers depend, such as {"model": digest}. With `keeps_note` a second start
    goes on with them even when all are there. Raises UserError in one line for a disk that is full or a file that
    another evaluation writes; what was appended before is kept.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, str], keys: Sequence[Mapping[str, object]], keeps_note: bool = False
    ):
        self.path, self.keys, self.keeps_note = path, keys, keeps_note
        self.identity = dict(identity)
        self.note = path.with_name(f".{path.name}{NOTE}")
        self.records: dict[int, dict] = {}  # by the question's place
        self._file: FileIO | None = None

    def __enter__(self) -> Self:
        with named_problems(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise UserError(f"{self.path}: another evaluation is writing it; give another --out") from problem
            remove_killed(self.path)
            if self.note.exists():
                self._take_up()
            else:
                self._file.truncate(0)  # before the note, so that it never speaks for answers of another model
                write_whole(self.note, json.dumps(self.identity, indent=1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if not self.records and error is not None and self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()
            self.note.unlink(missing_ok=True)

    def append(self, answers: Mapping[int, dict]) -> None:
        """Keep the records of some questions, on the disk when this returns."""
        assert self._file is not None
        size = self._file.seek(0, os.SEEK_END)
        lines = b"".join(map(_line, answers.values()))
        try:
            with named_problems(self.path):
                while lines:  # a disk that is nearly full takes a part
                    lines = lines[self._file.write(lines) :]
                os.fsync(self._file.fileno())
        except UserError:
            self._file.truncate(size)  # no half of a line stays
            raise
        self.records.update(answers)

    def finish(self) -> list[dict]:
        """Put all answers in the order of their questions and return them."""
        ordered = [self.records[place] for place in sorted(self.records)]
        with named_problems(self.path):
            write_whole(self.path, b"".join(map(_line, ordered)))
            if not self.keeps_note:
                self.note.unlink()
        return ordered

    def forget_note(self) -> None:
        """Let the next start begin anew: for answers that were finished with their note kept."""
        with named_problems(self.path):
            self.note.unlink(missing_ok=True)

    def _take_up(self) -> None:
        """Read the answers of an earlier start; drop a line that it has not written to its end."""
        assert self._file is not None
        try:
            before = json.loads(self.note.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        if before != self.identity:
            others = [name for name in self.identity if before.get(name) != self.identity[name]]
            raise UserError(
                f"{self.path} has the answers of an unfinished evaluation with another {' and '.join(others)}; give "
                f"another --out, or delete {self.note} to start over"
            )
        self._file.seek(0)
        content = self._file.read()
        kept = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(kept))
        places = defaultdict(list)  # of equal questions the first comes first
        for place, key in enumerate(self.keys):
            places[_line(key)].append(place)
        for line in kept.splitlines():
            record = json.loads(line)
            waiting = places[_line({name: record[name] for name in self.keys[0]})]
            if waiting:
                self.records[waiting.pop(0)] = record


def _line(record: Mapping[str, object]) -> bytes:
    """Return a record as a line of JSON in UTF-8, escaped where it holds half of an emoji, which UTF-8 cannot."""
    try:
        return f"{json.dumps(record, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:
        return f"{json.dumps(record)}\n".encode()


@contextmanager
def named_problems(path: Path) -> Iterator[None]:
    """Turn what the system says against writing a file into a UserError."""
    try:
        yield
    except OSError as problem:
        raise UserError(
            f"cannot write {path}: {in_words(problem)}; what was answered before is kept: {way_out(problem)}, "
            "and give the same command again"
        ) from problem
