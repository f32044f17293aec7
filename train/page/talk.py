"""The conversation of a page: what was shown and said, and what each of two models is asked next."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Who = Literal["own", "base"]
"""The model that is served, or the same one without its adapter."""


@dataclass(frozen=True)
class Turn:
    """A question, the ids of files that it shows, and what each model has answered so far."""

    files: tuple[str, ...]
    text: str
    answers: Mapping[Who, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Talk:
    """A conversation; pending: ids of files that the next question shows."""

    pending: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()

    def show(self, number: str) -> "Talk":
        """Show a file with the next question."""
        return replace(self, pending=(*self.pending, number))

    def ask(self, text: str) -> "Talk":
        """Begin a turn."""
        return Talk((), (*self.turns, Turn(self.pending, text)))

    def said(self, who: Who, piece: str) -> "Talk":
        """Add a piece of an answer to the last turn."""
        *turns, last = self.turns
        answers = {**last.answers, who: last.answers.get(who, "") + piece}
        return replace(self, turns=(*turns, replace(last, answers=answers)))

    def messages(self, who: Who) -> list[dict[str, Any]]:
        """Return what a model is asked, in the form of OpenAI's interface.

        It is told of the turns that it has answered itself, and of the last one; files of the others are shown with the
        question behind them.
        """
        files, messages = [], []
        for turn in self.turns:
            files += turn.files
            if turn is not self.turns[-1] and not turn.answers.get(who):
                continue
            shown = [{"type": "file", "file": {"file_id": number}} for number in files]
            messages.append({"role": "user", "content": [*shown, {"type": "text", "text": turn.text}]})
            if turn is not self.turns[-1]:
                messages.append({"role": "assistant", "content": turn.answers[who]})
            files = []
        return messages

    def bubbles(self, who: Who, names: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """Yield what is to be read of a model's side; names: of files, by their ids."""
        for turn in self.turns:
            shown = [f"[{names.get(number, 'a file')}]" for number in turn.files]
            yield {"role": "user", "content": " ".join([*shown, turn.text])}
            if turn.answers.get(who):
                yield {"role": "assistant", "content": turn.answers[who]}
