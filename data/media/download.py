"""Media behind http and https addresses: fetched once, within a limit of bytes and of seconds."""

import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import PurePath
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from data.errors import OutageError, UserError, is_passing, one_line
from data.files import whole_file
from data.media.hosts import NotAllowed, checked_client
from data.media.reference import Address, Downloads
from data.web import httpx

T = TypeVar("T")
MAX_REDIRECTS = 5
MAX_DIGITS = 20  # of a length that a server announces; Python reads no number of thousands
PLAIN = {"Accept-Encoding": "identity"}
PAUSES = (0.5, 2.0)  # seconds between tries; a set has many addresses, and dead ones among them
PASSING = (429, 500, 502, 503, 504)  # HTTP's answers of a server that is busy, broken or restarted
PAGES = (b"<!doctype html", b"<html")  # no picture and no clip begins so, whatever the server calls it
PAGE_LETTERS = 16
AGAIN = ".again"  # behind a file's name: it was fetched a second time
SHORTEST_TIMEOUT = 0.001  # seconds: httpx takes 0 for none at all


class TooLarge(Exception):
    """A file is larger than downloads may be."""


class WebPage(Exception):
    """The server sends a page for people in place of a file."""


class NoParts(Exception):
    """The server sends a file whole or not at all."""


def download(address: Address, name: str) -> str:
    """Return the file that holds what is at an address, fetched unless it is there.

    Many processes may ask at once: one fetches, the others wait, and the file is whole or absent. name: the address as
    messages show it. Raises UserError for what cannot be had, OutageError where that may pass.
    """
    limits, target = address.downloads, path_of(address)
    if os.path.exists(target):
        return target
    with told_in_one_line(f"{name!r} cannot be downloaded", limits):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with FileLock(f"{target}.lock", timeout=limits.seconds):
            if not os.path.exists(target):
                within(limits.seconds, PAUSES, _fetch, address, target)
    return target


def fetch_again(address: Address) -> bool:
    """Remove a file that cannot be decoded, so that it is fetched once more; False without one, or the second time."""
    target = path_of(address)
    if not os.path.exists(target):
        return False
    try:
        with open(f"{target}{AGAIN}", "x"):
            os.unlink(target)
    except OSError:
        return False
    return True


@contextmanager
def told_in_one_line(what: str, limits: Downloads) -> Iterator[None]:
    """Raise what goes wrong with a transfer as UserError or OutageError in one line that begins with `what`."""
    kind = UserError
    try:
        yield
        return
    except (TimeoutError, Timeout):
        kind = OutageError
        reason = f"not here after {limits.seconds:g} seconds; raise download_seconds"
    except TooLarge:
        reason = f"larger than {limits.max_bytes / 2**20:g} MiB; raise max_download_mib"
    except WebPage:
        reason = "the server sends a web page and no file; does it want a login, or another address?"
    except NotAllowed as error:
        reason = str(error)
    except NoParts:
        reason = "its server does not send parts of files (no range requests); download it"
    except httpx.HTTPStatusError as error:  # its text has the whole address, and in that may be a key
        reason = f"the server answers {error.response.status_code} {error.response.reason_phrase}"
        kind = OutageError if may_pass(error) else UserError
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"{type(error).__name__} {error}".strip()
        kind = OutageError if may_pass(error) else UserError
    except OSError as error:
        kind = OutageError if is_passing(error) else UserError
        reason = f"cannot write {limits.folder}: {error.strerror or error}; set media_cache"
    except UserError:
        raise
    except ValueError as error:  # of a server's headers
        reason = f"{type(error).__name__} {one_line(error)}"
    raise kind(f"{what}: {reason}") from None


def path_of(address: Address) -> str:
    """Return where the file of an address is kept: its name is a digest, because the address may hold a key."""
    digest = hashlib.sha256(address.url.encode(errors="surrogatepass")).hexdigest()
    suffix = PurePath(urlsplit(address.url).path).suffix
    suffix = suffix if re.fullmatch(r"\.\w{1,8}", suffix) else ""
    return os.path.join(address.downloads.folder, "addresses", digest[:2], digest + suffix)


def within(seconds: float, pauses: Sequence[float], function: Callable[..., T], *arguments: Any) -> T:
    """Return function(*arguments, end), where `end` is what the monotonic clock shows after `seconds`.

    What may pass is tried again after each of `pauses`. Raises TimeoutError when all of it takes longer, wherever it is
    then: looking up a name, or in a header that drips.
    """
    done: Future[T] = Future()
    end = time.monotonic() + seconds

    def work() -> None:
        try:
            done.set_result(_persistently(pauses, end, function, *arguments))
        except BaseException as error:
            done.set_exception(error)

    Thread(target=work, daemon=True).start()
    return done.result(seconds)


def _persistently(pauses: Sequence[float], end: float, function: Callable[..., T], *arguments: Any) -> T:
    """Try again what may pass: a run of days meets a server that is restarted."""
    for pause in pauses:
        try:
            return function(*arguments, end)
        except httpx.HTTPError as error:
            if not may_pass(error) or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
    return function(*arguments, end)


def may_pass(error: Exception) -> bool:
    """Tell a server's or a line's bad moment from an answer that will stay."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in PASSING
    if not isinstance(error, httpx.TransportError) or isinstance(error, httpx.UnsupportedProtocol):
        return False
    return not _names_nobody(error)


def _names_nobody(error: BaseException | None) -> bool:
    """Tell whether name servers answer that there is no such host; while they do not answer, that may pass."""
    while error is not None:
        if isinstance(error, socket.gaierror):
            return error.errno == socket.EAI_NONAME
        error = error.__cause__ or error.__context__
    return False


def new_client(limits: Downloads, end: float) -> httpx.Client:
    """Return a client for http and https, which asks the hosts that it may and gives up at `end`."""
    return checked_client(limits, max(end - time.monotonic(), SHORTEST_TIMEOUT), MAX_REDIRECTS)


def _fetch(address: Address, target: str, end: float) -> None:
    limits = address.downloads
    with new_client(limits, end) as client, client.stream("GET", address.url, headers=PLAIN) as response:
        response.raise_for_status()
        if (to_number(response.headers.get("Content-Length", "")) or 0) > limits.max_bytes:
            raise TooLarge
        with whole_file(target) as file:
            for number, piece in enumerate(limited(response, limits.max_bytes, end)):
                if not number and piece.lstrip()[:PAGE_LETTERS].lower().startswith(PAGES):
                    raise WebPage
                file.write(piece)


def to_number(length: str) -> int | None:
    """Return how many bytes a server announces; None for what is no number."""
    return int(length) if length.isascii() and length.isdigit() and len(length) < MAX_DIGITS else None


def limited(response: httpx.Response, max_bytes: int, end: float) -> Iterator[bytes]:
    """Yield the content of a response; raise TooLarge and TimeoutError where it goes beyond its limits."""
    size = 0
    for piece in response.iter_bytes():
        size += len(piece)
        if size > max_bytes:
            raise TooLarge
        if time.monotonic() > end:
            raise TimeoutError
        yield piece
