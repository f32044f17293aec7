"""The numbers of rows of a stream's windows, so that a continued run need not find them out again."""

import json
from contextlib import suppress
from pathlib import Path

from data.errors import ChangedDataError, many
from data.files import write_whole

WINDOW_COUNTS = "stream_windows.json"  # in the run's folder


class WindowCounts:
    """The number of rows of each window, which is the same in every epoch, in a JSON file.

    The file may be lost: finding the numbers out again only takes time.
    """

    def __init__(self, path: Path | None = None, writes: bool = False):
        """writes: whether this process keeps the file; one does, all read it."""
        self.path, self._writes = path, writes
        self._rows: list[int] = []
        self._is_complete = False

    def __getitem__(self, number: int) -> int | None:
        """Return the rows of a window, counted from 0; None where they are not known."""
        return self._rows[number] if number < len(self._rows) else None

    def is_end(self, number: int) -> bool:
        """Tell whether an epoch is known to have `number` windows and no more."""
        return self._is_complete and number == len(self._rows)

    def load(self) -> None:
        """Take what the file says, if anything."""
        if self.path is None:
            return
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self.path.read_text())
            self._rows, self._is_complete = list(map(int, kept["rows"])), bool(kept["is_complete"])

    def found(self, number: int, num_rows: int) -> None:
        """Note how many rows a window makes.

        Raises ChangedDataError where it was another number before: continuing would be wrong.
        """
        if number == len(self._rows) and not self._is_complete:
            self._rows.append(num_rows)
            self._keep()
        elif self[number] != num_rows:
            raise ChangedDataError(
                f"the data have changed since they were read before: window {number + 1} makes "
                f"{many(num_rows, 'row')}, not {self[number]} as before"
            )

    def found_end(self, number: int) -> None:
        """Note that an epoch has `number` windows. Raises ChangedDataError where it had another number before."""
        if number != len(self._rows):
            raise ChangedDataError(
                f"the data have changed since they were read before: they end after {number} windows, not after "
                f"{len(self._rows)}"
            )
        self._is_complete = True
        self._keep()

    def _keep(self) -> None:
        if self.path is None or not self._writes:
            return
        with suppress(OSError):  # a full disk is the checkpoints' business
            write_whole(self.path, json.dumps({"rows": self._rows, "is_complete": self._is_complete}))
