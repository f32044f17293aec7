"""The errors that are shown to users as a single line, with exit status 2."""


class UserError(ValueError):
    """Something the user can mend: says what, which value, where, and what to do, in one line."""

    record: str | None = None  # the name of the record that it is about

    def about(self, record: str) -> "UserError":
        """Note which record it is about, and return it."""
        self.record = record
        return self


class SettingError(UserError):
    """A setting that cannot be had: its plain name, which whoever reads settings from somewhere translates into the
    name that stands there, and what is wrong with its value."""

    def __init__(self, setting: str, problem: str):
        super().__init__(setting, problem)
        self.setting, self.problem = setting, problem

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}"


class ChangedDataError(UserError):
    """Data files are no longer those that a run began with, so that it cannot go on as if it had not been broken."""


class MediaError(UserError):
    """A picture or clip that cannot be decoded."""


class OutageError(UserError):
    """A server that does not answer, or not now: nothing is wrong with what it keeps."""


def one_line(error: BaseException) -> str:
    """Return an error's text without line ends; the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, where the rest is a library's advice; its class's name without any."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
