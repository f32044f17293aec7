"""The page's work: it shows what the model sees of a file, and asks through the queue of the endpoint."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from train.page.examples import Example
from train.page.frames import figure
from train.page.talk import Talk, Who
from train.serving.endpoint import Endpoint
from train.serving.questions import Question
from train.serving.refusals import Refusal
from train.talking.chat import timings

ANY_QUESTION = "?"  # a file is looked at with the same checks as in a question


@dataclass(frozen=True)
class Shown:
    """The state of the page. told: a line about it, which is_wrong calls a problem; text: in the box; frames: HTML in
    place of the frames. None leaves what is there."""

    talk: Talk
    told: str = ""
    is_wrong: bool = False
    text: str | None = None
    frames: str | None = None


class Answers:
    """Has the endpoint's model answer for a page, with and without its adapter."""

    def __init__(self, endpoint: Endpoint):
        self.service, self.reader, self.files = endpoint.service, endpoint.reader, endpoint.files

    @property
    def has_adapter(self) -> bool:
        return self.service.talker.has_adapter

    def names(self, talk: Talk) -> dict[str, str]:
        """Return what senders call the files of a talk."""
        numbers = {*talk.pending, *(number for turn in talk.turns for number in turn.files)}
        return {upload.id: upload.name for upload in self.files.all() if upload.id in numbers}

    async def show(self, sent: Any, talk: Talk) -> Shown:
        """Show what the model sees of a file that was sent: its id, or what kept it from being sent."""
        number, problem = (sent.get("id"), sent.get("problem")) if isinstance(sent, dict) else (None, None)
        if not isinstance(number, str):
            return Shown(talk, str(problem or "nothing was sent"), is_wrong=True)
        try:
            with self.service.place():
                question = await self._read(Talk((number,)).ask(ANY_QUESTION), "own")
                try:
                    (pixels,) = await self.service.look(question)
                finally:
                    self.files.release(question.held)
            name = self.files.find(number).name
            frames = await asyncio.to_thread(figure, name, pixels)
        except Refusal as refusal:
            return Shown(talk, refusal.message, is_wrong=True)
        return Shown(talk.show(number), f"{name} is shown with the next question", frames=frames)

    async def show_example(self, example: Example) -> Shown:
        """Begin a new conversation about an example, its question in the box."""
        upload = self.files.give_id(example.digest, example.name, "user_data")
        shown = await self.show({"id": upload.id}, Talk())
        return Shown(shown.talk, shown.told, shown.is_wrong, example.text, shown.frames)

    async def ask(
        self, text: Any, talk: Talk, is_compared: Any, temperature: Any, max_tokens: Any
    ) -> AsyncGenerator[Shown, None]:
        """Ask a question, of the base too where `is_compared`; yield what is shown with each piece of an answer."""
        words = text.strip() if isinstance(text, str) else ""
        if not words:
            yield Shown(talk, "type a question first", is_wrong=True)
            return
        before, talk, lines = talk, talk.ask(words), []
        yield Shown(talk, "reading ...", text="")
        try:
            with self.service.place():
                for who in self._asked(is_compared):
                    question = await self._read(talk, who, temperature=temperature, max_tokens=max_tokens)
                    async with aclosing(self._answer(question)) as pieces:
                        async for piece, line in pieces:
                            talk = talk.said(who, piece)
                            lines += [f"without the adapter: {line}" if who == "base" else line] if line else []
                            yield Shown(talk, "\n".join(lines))
        except Refusal as refusal:
            is_begun = any(talk.turns[-1].answers.values())
            yield Shown(talk if is_begun else before, refusal.message, True, None if is_begun else words)

    def _asked(self, is_compared: Any) -> tuple[Who, ...]:
        return ("own", "base") if is_compared is True and self.has_adapter else ("own",)

    async def _read(self, talk: Talk, who: Who, **options: Any) -> Question:
        body = {"model": self.reader.name, "messages": talk.messages(who), "stream": True, **options}
        reading = asyncio.ensure_future(asyncio.to_thread(self.reader.read, body))
        try:
            question = await asyncio.shield(reading)
        except asyncio.CancelledError:  # a thread goes on, and holds what nobody would release
            reading.add_done_callback(self._release_read)
            raise
        question.is_base = who == "base"
        return question

    def _release_read(self, reading: asyncio.Future[Question]) -> None:
        if reading.exception() is None:
            self.files.release(reading.result().held)

    async def _answer(self, question: Question) -> AsyncGenerator[tuple[str, str], None]:
        """Yield pieces of an answer, and at its end a line about its time. Its files are released."""
        began, first = time.perf_counter(), 0.0
        try:
            stream = await self.service.begin(question)
            async with aclosing(stream.pieces()) as pieces:
                async for piece in pieces:
                    first = first or time.perf_counter() - began
                    yield piece, ""
            yield "", timings(stream.reply, first, time.perf_counter() - began)
        finally:
            self.files.release(question.held)
