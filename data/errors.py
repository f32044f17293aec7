"""The one error class that is shown to users as a single line, with exit status 2."""

import os
import sys
from collections.abc import Callable


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


def run_command(main: Callable[[], None]) -> None:
    """Run a command line's `main`; a UserError becomes its line on stderr, once for all ranks, and exit status 2."""
    try:
        main()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
