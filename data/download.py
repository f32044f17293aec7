"""Media behind http and https addresses: fetched once, within a limit of bytes and of seconds."""

import hashlib
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import PurePath
from threading import Thread
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from huggingface_hub.utils import httpx

from data.errors import UserError
from data.reference import Address
from data.whole_files import whole_file

MAX_REDIRECTS = 5


class TooLarge(Exception):
    pass


def download(address: Address, name: str) -> str:
    """The file that holds what is at an address, fetched unless it is there. name: the address as messages show it.

    Many processes may ask at once: one fetches, the others wait, and the file is whole or absent. UserError for what
    cannot be had.
    """
    limits, target = address.downloads, path_of(address)
    if os.path.exists(target):
        return target
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with FileLock(f"{target}.lock", timeout=limits.seconds):
            if not os.path.exists(target):
                end = time.monotonic() + limits.seconds
                _within(limits.seconds, _fetch, address.url, target, limits.max_bytes, end)
        return target
    except (TimeoutError, Timeout):
        reason = f"not here after {limits.seconds:g} seconds; raise data.download_seconds"
    except TooLarge:
        reason = f"larger than {limits.max_bytes / 2**20:g} MiB; raise data.max_download_mib"
    except httpx.HTTPStatusError as error:  # its text has the whole address, and in that may be a key
        reason = f"the server answers {error.response.status_code} {error.response.reason_phrase}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"{type(error).__name__} {error}".strip()
    except OSError as error:
        reason = f"cannot write {limits.folder}: {error.strerror or error}; set data.media_cache"
    raise UserError(f"{name!r} cannot be downloaded: {reason}") from None


def path_of(address: Address) -> str:
    digest = hashlib.sha256(address.url.encode(errors="surrogatepass")).hexdigest()
    suffix = PurePath(urlsplit(address.url).path).suffix
    suffix = suffix if re.fullmatch(r"\.\w{1,8}", suffix) else ""
    return os.path.join(address.downloads.folder, "addresses", digest[:2], digest + suffix)


def _within(seconds: float, function: Callable, *arguments) -> None:
    """TimeoutError when it takes longer, wherever it is then: looking up a name, or in a header that drips."""
    done = Future()

    def work() -> None:
        try:
            done.set_result(function(*arguments))
        except BaseException as error:
            done.set_exception(error)

    Thread(target=work, daemon=True).start()
    done.result(seconds)


def _fetch(url: str, target: str, max_bytes: int, end: float) -> None:
    left = max(end - time.monotonic(), 0.001)
    client = httpx.Client(follow_redirects=True, max_redirects=MAX_REDIRECTS, timeout=left)  # http and https only
    with client, client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
        response.raise_for_status()
        if int(response.headers.get("Content-Length", 0)) > max_bytes:
            raise TooLarge
        size = 0
        with whole_file(target) as file:
            for piece in response.iter_bytes():
                size += len(piece)
                if size > max_bytes:
                    raise TooLarge
                if time.monotonic() > end:
                    raise TimeoutError
                file.write(piece)
