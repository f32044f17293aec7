"""A chat endpoint of OpenAI's form, which is asked with patience and never led elsewhere."""

import json
import os
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from data.errors import UserError, one_line
from data.media.locate import check_url, without_secrets
from data.web import httpx

KEY_VARIABLE = "REELTUNE_JUDGE_KEY"  # not OPENAI_API_KEY: that is not to be sent to whomever a command line names
PAUSES = (1.0, 4.0, 16.0, 60.0)  # seconds between tries: a limit on requests a minute is over by then
LONGEST_PAUSE = 120.0  # seconds that a server may ask for
SECONDS = 120.0  # for one answer
MAX_BYTES = 2**20  # of one answer
PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True)
class Endpoint:
    """The address that ends in /v1, and the name of its model; the key is kept out of every message."""

    url: str
    model: str
    key: str | None = field(repr=False, default=None)

    @property
    def shown(self) -> str:
        """The address as it may be shown."""
        return without_secrets(self.url)


def open_endpoint(url: str, model: str | None) -> Endpoint:
    """Return an endpoint with the key of the environment, if there is one. Asks nobody. Raises UserError."""
    if not model:
        raise UserError("--judge: needs --judge-model, the name of the model that judges; its numbers go by it")
    try:
        check_url(url)
        if urlsplit(url).scheme not in ("http", "https") or any(map(str.isspace, url)):
            raise ValueError("it must begin with http:// or https:// and have no blank")
    except ValueError as error:
        raise UserError(f"--judge: {without_secrets(url)} is no address ({error})") from None
    return Endpoint(url.rstrip("/"), model, (os.environ.get(KEY_VARIABLE) or "").strip() or None)


def ask(endpoint: Endpoint, messages: list[dict[str, str]]) -> str:
    """Return the reply to a chat; waits for servers that are busy or away. Raises UserError."""
    reason = ""
    for pause in (*PAUSES, None):
        try:
            status, wait, content = _post(endpoint, messages)
        except httpx.TransportError as error:
            status, wait, reason = None, None, one_line(error)
        else:
            if status == HTTPStatus.OK:
                return _reply(endpoint, content)
            reason = f"status {status}: {content[:200].decode(errors='replace')}"
            if status not in PASSING and status < HTTPStatus.INTERNAL_SERVER_ERROR:
                break
        if pause is not None:
            time.sleep(min(max(pause, wait or 0), LONGEST_PAUSE))
    raise UserError(
        f"--judge: {endpoint.shown} does not answer: {one_line(ValueError(reason))}; what was judged is kept: give the "
        "same command again"
    )


def _post(endpoint: Endpoint, messages: list[dict[str, str]]) -> tuple[int, float | None, bytes]:
    """Return status, seconds that the server asks to wait, and content. Redirects are not followed: they take the key
    elsewhere."""
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    body = {"model": endpoint.model, "messages": messages}
    end, content = time.monotonic() + SECONDS, b""
    with (
        httpx.Client(timeout=SECONDS, follow_redirects=False) as client,
        client.stream("POST", f"{endpoint.url}/chat/completions", json=body, headers=headers) as response,
    ):
        for piece in response.iter_bytes():
            content += piece
            if len(content) > MAX_BYTES:
                raise UserError(f"--judge: {endpoint.shown} answers with more than {MAX_BYTES:,} bytes")
            if time.monotonic() > end:
                raise httpx.ReadTimeout(f"no whole answer in {SECONDS:.0f} s")
        wait = response.headers.get("Retry-After", "")
        return response.status_code, float(wait) if wait.isdigit() else None, content


def _reply(endpoint: Endpoint, content: bytes) -> str:
    try:
        reply = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        reply = None
    if not isinstance(reply, str):
        raise UserError(f"--judge: {endpoint.shown} does not answer in the form of OpenAI's chat completions")
    return reply
