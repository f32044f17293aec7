"""The one queue before a model: a bounded number of requests, decoded and then answered one after the other."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from data.errors import MediaError, OutageError, UserError
from train.serving.questions import Question
from train.serving.refusals import BUSY, Refusal, refusal_of
from train.talking.prefixes import Prompt
from train.talking.talker import Reply, Talker

logger = logging.getLogger(__name__)
T = TypeVar("T")
LEAST_WAIT = 1  # seconds that a client is asked to wait before it tries again


class Service:
    """Answers questions. max_requests: that are there at any time; further ones are refused, with a time to wait."""

    def __init__(self, talker: Talker, max_requests: int):
        self.talker, self.max_requests = talker, max_requests
        self.num_requests, self.is_ending = 0, False
        self.seconds = 1.0  # that an answer takes, over the last ones
        self._replies: set[Reply] = set()
        # Threads, because the model and the decoder block; one each, because neither does two things at once.
        self._decoding = ThreadPoolExecutor(1, "decoding")
        self._answering = ThreadPoolExecutor(1, "answering")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place in the queue for as long as a request is there. Raises Refusal where none is left."""
        if self.is_ending:
            raise Refusal(BUSY, "the server is being stopped", code="unavailable", wait=LEAST_WAIT)
        if self.num_requests >= self.max_requests:
            wait = max(LEAST_WAIT, round(self.seconds * self.num_requests))
            raise Refusal(
                BUSY, f"{self.num_requests} requests are waiting; try again later", code="queue_full", wait=wait
            )
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    async def begin(self, question: Question) -> "AnswerStream":
        """Tokenise a question and decode what it shows and is not known; raises Refusal where it cannot be answered."""
        prompt = await self._in_turn(self._decoding, question, self._prepare, question)
        return AnswerStream(self, question, prompt)

    def _prepare(self, question: Question) -> Prompt:
        prompt = self.talker.prompt(question.messages, question.media, is_base=question.is_base)
        for item in self.talker.unseen(prompt, question.media):
            self.talker.look(item)
        return prompt

    async def look(self, question: Question) -> list[torch.Tensor]:
        """Return what the model sees of a question's pictures (3, H, W) and clips (F, 3, H, W). Raises Refusal."""

        def look() -> list[torch.Tensor]:
            return [self.talker.look(item) for item in question.media]

        return await self._in_turn(self._decoding, question, look)

    async def _in_turn(self, lane: ThreadPoolExecutor, question: Question, function: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(lane, function, *args)
        except UserError as problem:
            raise told(problem, question) from problem

    def end(self) -> None:
        """Stop answering, and wait until the threads have noticed."""
        self.is_ending = True
        for reply in list(self._replies):
            reply.cancel()
        for lane in (self._decoding, self._answering):
            lane.shutdown(wait=True, cancel_futures=True)


class AnswerStream:
    """A question whose answer can begin: iterate over it for the pieces."""

    def __init__(self, service: Service, question: Question, prompt: Prompt):
        self.service, self.question = service, question
        self.reply = service.talker.reply(prompt, question.media, question.sampling)
        self._events: asyncio.Queue[str | BaseException | None] = asyncio.Queue()
        self._began = time.monotonic()

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Yield the answer piece by piece; whoever closes this ends it. Raises Refusal."""
        service, loop = self.service, asyncio.get_running_loop()

        def put(event: str | BaseException | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        def work() -> None:
            began = time.monotonic()
            try:
                for piece in self.reply:
                    put(piece)
                service.seconds += 0.2 * (time.monotonic() - began - service.seconds)
                put(None)
            except BaseException as problem:
                put(problem)

        service._replies.add(self.reply)
        future = service._answering.submit(work)
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, BaseException):
                    raise self._told(event) from event
                yield event
        finally:
            self.reply.cancel()
            future.cancel()
            service._replies.discard(self.reply)

    def _told(self, problem: BaseException) -> Refusal:
        if isinstance(problem, UserError):
            return told(problem, self.question)
        logger.error(f"an answer failed: {type(problem).__name__}: {problem}", exc_info=problem)
        return refusal_of(RuntimeError())


def told(problem: UserError, question: Question) -> Refusal:
    """Return what to say of a problem with a question, whose files have the names of their sender."""
    refusal = refusal_of(problem)
    if isinstance(problem, MediaError | OutageError):
        refusal.message = question.hide(refusal.message)
    return refusal
