"""The errors that are shown to users as a single line, with exit status 2."""


class UserError(ValueError):
    """Something the user can mend: says what, which value, where, and what to do, in one line."""

    row: str | None = None  # the name of the row that it is about

    def __init__(self, message: str):
        # From a DataLoader's worker an error comes back as a new one whose message holds the worker's traceback.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())

    def about(self, row: str) -> "UserError":
        self.row = row
        return self


class MediaError(UserError):
    """A picture or clip that cannot be decoded."""


class OutageError(UserError):
    """A server that does not answer, or not now: nothing is wrong with what it keeps."""
