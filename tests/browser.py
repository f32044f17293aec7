"""A headless browser, for tests of pages and for pictures of them: what a page shows, says in its console, asks for."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Root, as whom containers run, has no sandbox; a container's shared memory is 64 MB.
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
QUALITY = 88  # of WebP, where letters have no shadows
SECONDS_TO_SERVE = 120  # a server that imports TensorBoard on a busy machine


def find_browser() -> str | None:
    """Return the path of an installed browser that is Chromium or a close relative."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@dataclass
class Opened:
    """A page in a window. said: warnings, errors and uncaught exceptions of its console; asked: addresses that it
    asked for, its own and those within it (data:) left out."""

    page: "Page"
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def browser() -> Iterator["Browser"]:
    """Start a browser; it ends with the context."""
    from playwright.sync_api import sync_playwright  # takes a second, which --help has not

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=find_browser(), args=list(OPTIONS))
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(
    started: "Browser",
    address: str,
    width: int = 1280,
    height: int = 900,
    scheme: str = "light",
    density: float = 1,
    **settings: Any,
) -> Iterator[Opened]:
    """Open an address in a window of this size, for a person who prefers "light" or "dark".

    density: pixels of a picture for one of the window; settings: further ones of playwright's new_page.
    """
    page = started.new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=density, **settings
    )
    found = Opened(page)
    page.on("console", lambda message: found.said.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: found.said.append(str(error)))
    page.on("request", lambda request: found.asked.append(request.url))
    try:
        page.goto(address)
        found.asked = [url for url in found.asked if url != address and not url.startswith("data:")]
        yield found
    finally:
        page.close()


@contextmanager
def served(command: Sequence[str], port: int) -> Iterator[str]:
    """Start a command that serves a page on this port of the loopback interface; yield its address once it answers."""
    address = f"http://127.0.0.1:{port}/"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS_TO_SERVE
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not serve {address}")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5):
            return True
    except (URLError, OSError):
        return False


def save_picture(page: "Page", path: Path, **settings: Any) -> None:
    """Write what a window shows as WebP, which is small; settings: those of playwright's screenshot."""
    save_content(page.screenshot(**settings), path)


def save_content(content: bytes, path: Path) -> None:
    """Write a screenshot as WebP."""
    from PIL import Image

    Image.open(BytesIO(content)).convert("RGB").save(path, "WEBP", quality=QUALITY, method=6)
