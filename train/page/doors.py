"""The routes of gradio's that are open: those that the page needs, none that reads a file or asks another server."""

from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from train.serving.guard import PAGE
from train.serving.refusals import NOT_FOUND, Refusal

WHOLE = {
    "GET": {"", "/", "/theme.css", "/gradio_api/queue/data"},
    "POST": {"/files", "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"},
}
# Scripts, styles and fonts of the installed gradio, and the line that tells it that a page is still there.
BEGINNINGS = {"GET": ("/assets/", "/static/", "/gradio_api/heartbeat/")}
# The page is made of gradio's scripts, which make functions of templates. Nothing of it comes from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
    "worker-src 'self' blob:; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def is_open(method: str, path: str) -> bool:
    """Tell whether the page needs a route; path: behind the page's own."""
    method = "GET" if method == "HEAD" else method
    if ".." in path.split("/"):
        return False
    return path in WHOLE.get(method, ()) or path.startswith(BEGINNINGS.get(method, ()))


class Doors:
    """An ASGI app around another one, below whose PAGE gradio is mounted."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request of the page pass, with the headers that keep it to itself."""
        if scope["type"] != "http" or not (scope["path"] == PAGE or scope["path"].startswith(f"{PAGE}/")):
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix(PAGE)
        if not is_open(scope["method"], path):
            refusal = Refusal(NOT_FOUND, f"{scope['method']} {quote(scope['path'])[:80]}: Not Found")
            return await JSONResponse(refusal.body, refusal.status)(scope, receive, send)
        if path in ("", "/"):  # words behind a ? would have gradio load what it has kept
            scope = {**scope, "query_string": b""}

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, told)
