"""The check of a request before anything of it is read: whose page sent it, who asks, and how much it brings."""

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from train.serving.refusals import FORBIDDEN, TOO_LARGE, UNAUTHORIZED, Refusal

MIB = 2**20
API = "/v1"
PAGE = "/page"
UPLOADS = (f"{API}/files", f"{PAGE}/files")
HEARTBEAT = f"{PAGE}/gradio_api/heartbeat/"  # a line that a page holds for as long as it is shown
OPEN = ("/health",)  # what needs no token
BASIC = 'Basic realm="the server\'s token is the password, the name may be anything", charset="UTF-8"'
TOO_SLOW = 408


class Guard:
    """An ASGI app around another.

    token: that must be sent as `Authorization: Bearer`, or to the page as the password of any user, because a browser
    asks a person for that and sends it with all that a page asks for; None asks for none. hosts: names under which the
    server may be asked, None for any: a page of a stranger whose name leads to this machine is not answered. max_body
    and max_file: bytes of a request, and of one that sends a file. seconds: in which all of it must be here.

    ending: is set when the server is to end, which waits for answers, and for no page that is merely shown.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        hosts: Collection[str] | None,
        max_body: int,
        max_file: int,
        seconds: float,
    ):
        self.app, self.token, self.hosts, self.seconds = app, token, hosts, seconds
        self.max_body, self.max_file = max_body, max_file
        self.ending = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        try:
            self._check(scope["path"], headers)
            limit = self.max_file + MIB if scope["path"] in UPLOADS else self.max_body  # a form has words around it
            length = headers.get("content-length", "")
            if length.isdigit() and int(length) > limit:
                raise _too_large(limit)
        except Refusal as refusal:
            response = JSONResponse(refusal.body, refusal.status, refusal.headers)
            return await response(scope, receive, send)
        limited = self._limited(receive, limit)
        await self.app(scope, self._ended(limited) if scope["path"].startswith(HEARTBEAT) else limited, send)

    def _check(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if self.hosts is not None and name_of(host) not in self.hosts:
            raise Refusal(FORBIDDEN, f"this server is not {host[:80]!r}; ask it by the address that it prints")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refusal(FORBIDDEN, f"pages of {origin[:80]!r} may not ask this server")
        if self.token is None or path in OPEN:
            return
        is_api = path == API or path.startswith(f"{API}/")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip()
        if scheme.lower() == "basic" and not is_api:
            given = password_of(given)
        elif scheme.lower() != "bearer":
            given = ""
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            message = "send the server's token, Authorization: Bearer TOKEN"
            challenge = "Bearer" if is_api else BASIC
            raise Refusal(UNAUTHORIZED, message, None, "invalid_api_key", challenge=challenge)

    def _limited(self, receive: Receive, limit: int) -> Receive:
        """Return a `receive` that raises Refusal where a body is too large, or takes too long."""
        size, is_whole, end = 0, False, time.monotonic() + self.seconds

        async def limited() -> Message:
            nonlocal size, is_whole
            if is_whole:  # whoever asks waits for the client to leave
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                raise Refusal(TOO_SLOW, f"the request is not here after {self.seconds:g} seconds") from None
            size, is_whole = size + len(message.get("body", b"")), not message.get("more_body", False)
            if size > limit:
                raise _too_large(limit)
            return message

        return limited

    def _ended(self, receive: Receive) -> Receive:
        """Return a `receive` by which the client leaves when the server is to end."""

        async def received() -> Message:
            message, end = asyncio.ensure_future(receive()), asyncio.ensure_future(self.ending.wait())
            try:
                await asyncio.wait((message, end), return_when=asyncio.FIRST_COMPLETED)
                return message.result() if message.done() else {"type": "http.disconnect"}
            finally:
                message.cancel()
                end.cancel()

        return received


def password_of(credentials: str) -> str:
    """Return the password in what a browser sends of a user, "" where there is none."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _too_large(limit: int) -> Refusal:
    return Refusal(TOO_LARGE, f"the request has more than {limit / MIB:g} MiB", None, "too_large")
