"""The errors that are shown to users as a single line, with exit status 2."""

import errno
import os
import re
import unicodedata


class UserError(ValueError):
    """Something the user can mend: says what, which value, where, and what to do, in one line."""

    record: str | None = None  # the name of the record that it is about

    def __str__(self) -> str:
        return visible(super().__str__())

    def about(self, record: str) -> "UserError":
        """Note which record it is about, and return it."""
        self.record = record
        return self


class UserErrors(UserError):
    """Several at once, a line each."""

    def __init__(self, lines: list[str]):
        super().__init__(lines)
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(map(visible, self.lines))


class SettingError(UserError):
    """A setting that cannot be had: its plain name, which whoever reads settings from somewhere translates into the
    name that stands there, and what is wrong with its value."""

    def __init__(self, setting: str, problem: str):
        super().__init__(setting, problem)
        self.setting, self.problem = setting, problem

    def __str__(self) -> str:
        return visible(f"{self.setting}: {self.problem}")


class ChangedDataError(UserError):
    """Data files are no longer those that a run began with, so that it cannot go on as if it had not been broken."""


class MediaError(UserError):
    """A picture or clip that cannot be decoded."""


class OutageError(UserError):
    """A file that could not be tried: a full disk, a server that is away, a signal, a stall. Nothing is known to be
    wrong with the file, and the next try may succeed (see `data.patience`)."""


# What the system says of itself and not of a file's content. A disk or server that fails may say any of these.
PASSING = frozenset({
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
    *(errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.EBUSY, errno.EINTR, errno.ENOLCK, errno.ENOTCONN),
    *(errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH),
})  # fmt: skip


def is_passing(error: BaseException) -> bool:
    """Tell the machine's errors from those of a file's content, or of its absence."""
    return isinstance(error, OSError) and error.errno in PASSING


# What a person does about what the system says of a place that is to be made or written.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WAYS_OUT = {
    **dict.fromkeys(NO_ROOM, "make room"),
    errno.EFBIG: "make room, or allow larger files (ulimit -f)",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give this user the right to it, or take another place"),
    errno.EROFS: "nothing can be written on that file system; take another place",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file stands where a folder should; take another place"),
    errno.EISDIR: "name a file in it",
    errno.ENAMETOOLONG: "take a shorter name",
    errno.EILSEQ: "take a name in UTF-8",
    errno.ELOOP: "its links lead in a circle; take another place",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)"),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "see whether that disk is failing, or take another"),
}
NO_FOLDER = "make room"  # tempfile says ENOENT of a full disk, too
OF_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers: their errors have no number of their own


def number_of(error: BaseException) -> int | None:
    """Return the system's number of an error, None where it has none."""
    found = OF_RUST.search(str(error))
    return error.errno if isinstance(error, OSError) else int(found[1]) if found else None


def in_words(error: BaseException) -> str:
    """Return what the system says of an error, without number and path."""
    number = number_of(error)
    said = error.strerror if isinstance(error, OSError) else os.strerror(number) if number is not None else None
    return said or one_line(error)


def way_out(error: BaseException, otherwise: str = "take another place") -> str:
    """Return what to do about an error of writing. Those of torch have no number, and come of a full disk."""
    number = number_of(error)
    if number is None and not isinstance(error, OSError):
        number = errno.ENOSPC
    return WAYS_OUT.get(number or 0, otherwise)


def with_way_out(error: BaseException) -> str:
    """Return what the system says of an error of writing, and what to do about it."""
    return f"{in_words(error)}; {way_out(error)}"


def refused(message: str, error: BaseException) -> UserError:
    """Return the error to raise for a file that `error` kept from being read: OutageError where that may pass."""
    return OutageError(message) if is_passing(error) else UserError(message)


def visible(text: str) -> str:
    """Return a text as it may be shown on a terminal: what would move its cursor, end its line, colour it or turn its
    direction, and halves of characters, are written as Python escapes them.

    Names of files and records come from strangers.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else f"{letter!a}"[1:-1]
        for letter in text
    )


def one_line(error: BaseException) -> str:
    """Return an error's text without line ends; the name of its class where it has none."""
    return visible(" ".join(str(error).split())) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, where the rest is a library's advice; its class's name without any."""
    return visible(next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__))


def many(number: float, noun: str) -> str:
    """Return "1 row", "4,700 rows" or "2.5 rows"."""
    text = f"{int(number):,}" if number == int(number) else f"{number:.3g}"
    return f"{text} {noun}{'' if number == 1 else 's'}"
