"""Answers of an endpoint to what it does not answer, in the form of OpenAI's interface."""

from typing import Any

from data.errors import MediaError, OutageError, SettingError, UserError, visible
from train.talking.talker import TooLong

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_LARGE = 400, 401, 403, 404, 413
BROKEN, BUSY = 500, 503


class Refusal(Exception):
    """A request that is not answered. param: the key of the request that is to blame. wait: seconds until another try.
    challenge: how whoever asks may show who it is."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        wait: int | None = None,
        challenge: str | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, visible(message), param, code
        self.wait, self.challenge = wait, challenge

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        headers = {} if self.wait is None else {"Retry-After": str(self.wait)}
        return headers | ({"WWW-Authenticate": self.challenge} if self.challenge else {})

    @property
    def body(self) -> dict[str, Any]:
        """The response, as OpenAI's clients read it."""
        kind = "invalid_request_error" if self.status < BROKEN else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def refusal_of(problem: Exception, param: str | None = None) -> Refusal:
    """Return what to say of an error that reading or answering a request has raised."""
    match problem:
        case Refusal():
            return problem
        case TooLong():
            return Refusal(BAD_REQUEST, str(problem), "messages", "context_length_exceeded")
        case SettingError(setting=setting):
            return Refusal(BAD_REQUEST, str(problem), setting, "invalid_value")
        case OutageError():  # nothing is known to be wrong with the file
            return Refusal(BUSY, str(problem), param, "unavailable", wait=5)
        case MediaError():
            return Refusal(BAD_REQUEST, str(problem), param or "messages", "invalid_media")
        case UserError():
            return Refusal(BAD_REQUEST, str(problem), param or "messages", "invalid_value")
    return Refusal(BROKEN, "the server failed over this request; its log says why", None, "internal_error")
