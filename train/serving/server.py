"""A server around the endpoint: where it listens, what it needs for that, and how it ends."""

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from data.errors import UserError
from data.files import remove_killed, unfinished_path
from data.media.download import download, path_of
from data.media.locate import check_url, without_secrets
from data.media.reference import Address, Downloads
from train.serving.endpoint import Endpoint
from train.serving.files import MIB, Files
from train.serving.guard import Guard
from train.serving.questions import Fetch, Reader
from train.serving.refusals import BAD_REQUEST, Refusal
from train.serving.service import Service

logger = logging.getLogger(__name__)

FOLDER = "reeltune-serve"  # of what clients send, in the folder of temporary files
PUBLIC = "public"  # in place of a host: all that have a public address
TOKEN = "REELTUNE_TOKEN"  # a command line can be seen by everybody on a machine, its environment cannot
MIN_TOKEN = 16  # letters
NAMES_OF_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Settings of recipes that messages about downloads name, and what they are here.
OPTIONS = {"media_hosts": "--media-host", "max_download_mib": "--max-upload", "download_seconds": "--decode-seconds",
           "media_cache": "TMPDIR"}  # fmt: skip
AddPage = Callable[[Starlette, Endpoint], None]
BACKLOG = 128  # connections that wait to be taken
# An idle connection is kept longer than httpx keeps it (5 s): with uvicorn's 5 s a request could meet its closing.
KEEP_ALIVE_SECONDS = 20


@dataclass(frozen=True)
class Limits:
    """max_requests: that are there at any time. max_file and max_body: bytes of a file in a form, and of a request;
    max_files: of all files that are kept. seconds: in which a request must be here; end_seconds: that answers may go on
    for when the server is stopped."""

    max_requests: int = 32
    max_file: int = 512 * MIB
    max_body: int = 64 * MIB
    max_files: int = 4096 * MIB
    seconds: float = 300.0
    end_seconds: int = 10


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """Return a socket that is bound, or raise UserError. An address that other machines can ask needs a token."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: no address of this machine ({error})") from error
    family, _, _, _, address = found[0]
    if token is None and not ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise UserError(f"--host {host}: other machines can ask there; set a token of {MIN_TOKEN} letters or more in "
                        f"the environment, {TOKEN}, or leave --host out")  # fmt: skip
    if token is not None and (len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable()):
        raise UserError(f"{TOKEN} must be {MIN_TOKEN} letters or more, of ASCII; such as openssl rand -hex 24 makes")
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise UserError(f"cannot listen at {host}, port {port}: {error.strerror}; take another --port") from error
    return bound


@contextmanager
def own_folder() -> Iterator[Path]:
    """Make a folder for files of strangers, which nobody else may read, and remove it at the end; and those of servers
    that were killed."""
    place = Path(tempfile.gettempdir(), FOLDER)
    remove_killed(place)
    folder = unfinished_path(place)
    folder.mkdir(mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def fetcher(files: Files, hosts: Sequence[str], folder: Path, seconds: float) -> Fetch | None:
    """Return what gets files from these hosts; None where there are none. `public` is every host that has a public
    address, and no other."""
    if not hosts:
        return None
    allowed = None if PUBLIC in hosts else tuple(hosts)
    limits = Downloads(str(folder / "downloads"), files.max_file, seconds, allowed)

    def fetch(url: str, param: str) -> str:
        try:
            check_url(url)
        except ValueError as error:
            raise Refusal(BAD_REQUEST, f"{param}: not an address ({error})", param) from error
        address = Address(url, limits)
        try:
            download(address, without_secrets(url))
        except UserError as problem:
            raise type(problem)(in_own_words(str(problem), folder)) from problem
        try:
            with open(path_of(address), "rb") as file:
                return files.add(file)
        finally:
            Path(path_of(address)).unlink(missing_ok=True)

    return fetch


def in_own_words(message: str, folder: Path) -> str:
    """Return a message about a download with the names of this command's options and no place on this machine."""
    for key, option in OPTIONS.items():
        message = message.replace(key, option)
    return message.replace(str(folder), "the server's folder")


def guarded(app: Starlette, token: str | None, is_open: bool, limits: Limits) -> Guard:
    """Return the app behind its guard. is_open: other machines may ask, by any name."""
    return Guard(
        app,
        token=token,
        hosts=None if is_open else NAMES_OF_LOOPBACK,
        max_body=limits.max_body,
        max_file=limits.max_file,
        seconds=limits.seconds,
    )


def run(app: Guard, bound: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM or Ctrl-C; answers that have begun may go on for a while."""
    config = uvicorn.Config(
        app,
        log_config=None,  # its lines would go to the root's logger
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=8 * limits.max_requests,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=limits.end_seconds,
    )
    server = _Server(config, app.ending)
    # One may come before uvicorn has its own handler, and it raises each anew when it has ended.
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        server.run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, before)
        bound.close()


class _Server(uvicorn.Server):
    """Sets `ending` when a signal ends it."""

    def __init__(self, config: uvicorn.Config, ending: asyncio.Event):
        super().__init__(config)
        self.ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.ending.set()


def serve(
    service: Service,
    reader: Reader,
    files: Files,
    bound: socket.socket,
    token: str | None,
    limits: Limits,
    add_page: AddPage | None = None,
) -> None:
    """Answer what comes to a socket until the server is stopped. add_page: adds a page to the endpoint's app."""
    host, port = bound.getsockname()[:2]
    is_open = not ip_address(host.partition("%")[0]).is_loopback
    endpoint = Endpoint(service, reader, files)
    app = endpoint.app()
    if add_page:
        add_page(app, endpoint)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}"
    page = f", and a page for people at {address}/" if add_page else ""
    logger.info(f"{reader.name}: {address}/v1{page}{', with a token' if token else ''}")
    run(guarded(app, token, is_open, limits), bound, limits)
    logger.info("stopped")
