"""The errors that are shown to users as a single line, with exit status 2."""

import errno
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
