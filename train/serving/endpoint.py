"""The ASGI app: chat completions, files and models. Another app, such as a page, can be mounted on it."""

import asyncio
import json
import logging
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import IO, Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from train.serving.completions import DONE, Completion, failed
from train.serving.files import Files
from train.serving.questions import Question, Reader
from train.serving.refusals import BAD_REQUEST, NOT_FOUND, Refusal, refusal_of
from train.serving.service import AnswerStream, Service

logger = logging.getLogger(__name__)

IN_MEMORY = 2**20  # bytes of a body; the rest of it goes to the disk
JSON = "application/json"
WRONG_TYPE = 415
LEFT = 499  # nginx's number for a client that has gone


class Endpoint:
    """The routes. name: of the model."""

    def __init__(self, service: Service, reader: Reader, files: Files):
        self.service, self.reader, self.files, self.name = service, reader, files, reader.name
        self._parsing = asyncio.Lock()  # one body at a time: a clip in base64 is in memory several times

    def app(self) -> Starlette:
        """Return the app. `app.mount` takes another one, whose requests need no token of ours."""
        routes = [
            Route("/health", self.health, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/v1/files", self.list_files, methods=["GET"]),
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files/{number}", self.file, methods=["GET"]),
            Route("/v1/files/{number}", self.remove_file, methods=["DELETE"]),
        ]
        handlers: Any = {Refusal: refused, ClientDisconnect: left, HTTPException: not_routed, Exception: broken}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self.lifespan)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Stop answering when the server stops."""
        yield
        await asyncio.to_thread(self.service.end)

    async def health(self, request: Request) -> Response:
        """Report whether requests are accepted, and how much is cached."""
        service, store = self.service, self.service.talker.store
        state = {
            "status": "ending" if service.is_ending else "ok",
            "model": self.name,
            "requests": service.num_requests,
            "kept_clips": len(store),
            "kept_bytes": store.num_bytes,
            "file_bytes": self.files.num_bytes,
        }
        return JSONResponse(state, 503 if service.is_ending else 200)

    async def models(self, request: Request) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def model(self, request: Request) -> Response:
        """Describe the one model."""
        if request.path_params["name"] != self.name:
            raise Refusal(NOT_FOUND, f"there is no such model; this is {self.name!r}", "model", "model_not_found")
        return JSONResponse(self._described())

    def _described(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "reeltune",
                "max_model_len": self.service.talker.max_context}  # fmt: skip

    async def upload(self, request: Request) -> Response:
        """Keep a picture or clip of a form under an id."""
        with self.service.place():
            if not request.headers.get("content-type", "").startswith("multipart/form-data"):
                raise Refusal(WRONG_TYPE, "send a form (multipart/form-data) with the file as 'file'", "file")
            async with request.form(max_files=1, max_fields=8) as form:
                file, purpose = form.get("file"), form.get("purpose") or "user_data"
                if not isinstance(file, UploadFile) or not isinstance(purpose, str):
                    raise Refusal(BAD_REQUEST, "the form has no file named 'file'", "file")
                kept = await asyncio.to_thread(self.files.upload, file.file, file.filename or "file", purpose)
            return JSONResponse(kept.described())

    async def list_files(self, request: Request) -> Response:
        """List the files that were sent, all at once; nobody can read them back."""
        return JSONResponse(
            {"object": "list", "data": [each.described() for each in self.files.all()], "has_more": False}
        )

    async def file(self, request: Request) -> Response:
        """Describe a file that was sent."""
        return JSONResponse(self.files.find(request.path_params["number"]).described())

    async def remove_file(self, request: Request) -> Response:
        """Forget a file that was sent."""
        number = request.path_params["number"]
        self.files.remove(number)
        return JSONResponse({"id": number, "object": "file", "deleted": True})

    async def complete(self, request: Request) -> Response:
        """Answer a chat, at once or as a stream that begins with the first word."""
        async with AsyncExitStack() as closing:
            closing.enter_context(self.service.place())
            question = await self._question(request)
            closing.callback(self.files.release, question.held)
            stream = await until_left(request, self.service.begin(question))
            pieces = stream.pieces()
            closing.push_async_callback(pieces.aclose)
            first = await until_left(request, anext(pieces, None))
            if question.is_streamed:
                return Stream(self._events(stream, pieces, first), closing.pop_all())
            await until_left(request, exhausted(pieces))
            return JSONResponse(Completion(self.name).whole(stream.reply))

    async def _question(self, request: Request) -> Question:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise Refusal(WRONG_TYPE, f"send the body as {JSON}")
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as body:
            async for piece in request.stream():
                await asyncio.to_thread(body.write, piece) if len(piece) > IN_MEMORY else body.write(piece)
            body.seek(0)
            async with self._parsing:
                return await asyncio.to_thread(self._parse, body)

    def _parse(self, body: IO[bytes]) -> Question:
        try:
            content = json.loads(body.read())
        except (ValueError, RecursionError) as error:  # of its text; of numbers without end; of its depth
            raise Refusal(BAD_REQUEST, f"the body is not JSON: {error}"[:300], None, "invalid_json") from error
        return self.reader.read(content)

    async def _events(
        self, stream: AnswerStream, pieces: AsyncGenerator[str, None], first: str | None
    ) -> AsyncGenerator[str, None]:
        completion, reply, usage = Completion(self.name), stream.reply, stream.question.has_usage
        try:
            yield completion.chunk(usage, role="assistant", content="")
            if first is not None:
                yield completion.chunk(usage, content=first)
            async for piece in pieces:
                yield completion.chunk(usage, content=piece)
            yield completion.chunk(usage, reply.finish)
            if usage:
                yield completion.usage(reply)
            yield DONE
        except Refusal as refusal:
            yield failed(refusal)


class Stream(StreamingResponse):
    """Events that are sent while they come. closing: is closed at the end, also where no event was ever asked for."""

    def __init__(self, events: AsyncGenerator[str, None], closing: AsyncExitStack):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        async with self.closing:
            await super().__call__(scope, receive, send)


async def until_left(request: Request, work: Any) -> Any:
    """Return what `work` returns; cancel it and raise ClientDisconnect where the client leaves before that."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def _left(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def exhausted(pieces: AsyncGenerator[str, None]) -> None:
    """Read to the end."""
    async for _ in pieces:
        pass


async def refused(request: Request, refusal: Refusal) -> Response:
    """Answer with a refusal."""
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def left(request: Request, problem: ClientDisconnect) -> Response:
    """Answer nobody: the client has gone."""
    return Response(status_code=LEFT)


async def not_routed(request: Request, problem: HTTPException) -> Response:
    """Answer what has no route, or a form that is none."""
    path = request.url.path[:80]
    refusal = Refusal(problem.status_code, f"{request.method} {path}: {problem.detail}")
    return JSONResponse(refusal.body, refusal.status, dict(problem.headers or {}))


async def broken(request: Request, problem: Exception) -> Response:
    """Answer what is a fault of ours; its traceback goes to the log."""
    refusal = refusal_of(problem)
    return JSONResponse(refusal.body, refusal.status)
