"""Files behind http and https addresses, read in parts where they lie: what need not fit this machine's disk."""

import io
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers

from data.errors import UserError
from data.media.download import PLAIN, NoParts, TooLarge, limited, new_client, to_number, told_in_one_line, within
from data.media.reference import Address, Part

FIRST_WINDOW, LAST_WINDOW = 2**16, 2**23  # bytes: headers of a shard are small, whole shards are read in large pieces
PAUSES = (0.5, 2.0, 8.0, 30.0)  # seconds between tries; without its one server a run has to stop


class RemoteFile(io.RawIOBase):
    """A file to read and to seek in. What follows is fetched ahead, twice as much each time; behind a jump, little.

    name: what messages call the file. Reading raises UserError for what cannot be had.
    """

    def __init__(self, address: Address, name: str):
        self.address, self.name = address, name
        self._position = self._start = 0
        self._window, self._next_size = b"", FIRST_WINDOW

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end is not known before it is read")
        self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        return self._position

    def readinto(self, target: Any, /) -> int:
        if not 0 <= self._position - self._start < len(self._window):
            self._fetch_window()
        piece = self._window[self._position - self._start :][: len(target)]
        target[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _fetch_window(self) -> None:
        follows = self._position == self._start + len(self._window)
        size = min(2 * self._next_size, LAST_WINDOW) if follows and self._window else FIRST_WINDOW
        self._start, self._next_size = self._position, size
        with told_in_one_line(f"{self.name}: cannot be read", self.address.downloads):
            self._window, _ = read_range(self.address, self._start, size)


def open_remote(address: Address, name: str) -> io.BufferedReader:
    """Open the file behind an address for reading."""
    return io.BufferedReader(RemoteFile(address, name))


def remote_size(address: Address, name: str) -> int:
    """Return the bytes that a file has. Raises UserError for what cannot be had."""
    with told_in_one_line(f"{name}: cannot be read", address.downloads):
        return read_range(address, 0, 1)[1]


def read_part(part: Part, name: str) -> bytes:
    """Read a part of a file. name: what messages call it.

    Raises UserError for what cannot be had, OutageError where that may pass.
    """
    limits = part.address.downloads
    with told_in_one_line(f"{name!r} cannot be downloaded", limits):
        if part.size > limits.max_bytes:
            raise TooLarge
        content, _ = read_range(part.address, part.offset, part.size)
    if len(content) < part.size:
        raise UserError(f"{name!r} cannot be read: its shard has changed and ends before it; start over")
    return content


def read_range(address: Address, start: int, size: int) -> tuple[bytes, int]:
    """Read at most `size` bytes, fewer at the end of the file; return them and how many the file has."""
    return within(address.downloads.seconds, PAUSES, _read_range, address, start, size)


def _read_range(address: Address, start: int, size: int, end: float) -> tuple[bytes, int]:
    url, limits = address.url, address.downloads
    if url.startswith(constants.ENDPOINT + "/"):  # which sends the files of the hub from servers of many names
        limits = replace(limits, hosts=None)
    # The hub's token goes to the hub alone: httpx takes it off where a redirect leads elsewhere.
    access = build_hf_headers() if url.startswith(constants.ENDPOINT + "/") else {}
    headers = {**access, **PLAIN, "Range": f"bytes={start}-{start + size - 1}"}
    with new_client(limits, end) as client, client.stream("GET", url, headers=headers) as response:
        total = to_number(response.headers.get("Content-Range", "").rpartition("/")[2])
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # nothing is there any more
            return b"", start if total is None else total
        response.raise_for_status()
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            raise NoParts
        return b"".join(limited(response, size, end)), total or 0
