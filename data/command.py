"""The frame around every command line: a user's error is one line and exit status 2."""

import os
import sys
from collections.abc import Callable

from data.errors import UserError


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
