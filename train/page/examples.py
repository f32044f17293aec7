"""Clips and pictures to begin with, from a data file: they are kept like those that clients send."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.media.reference import Media
from data.sources.conversation import Conversation, read_conversations
from data.sources.source import Source
from train.serving.files import Files
from train.serving.refusals import Refusal

MAX_EXAMPLES = 6  # a few lines of buttons


@dataclass(frozen=True)
class Example:
    """A question about a file, which is kept as long as the server runs."""

    text: str
    name: str
    digest: str


def read_examples(path: str, media_root: str | None) -> list[tuple[Media, str]]:
    """Read the first files of a data file and a question about each. Raises UserError, also where there is none."""
    found: dict[Media, str] = {}
    for conversation in read_conversations(Source(path, media_root=media_root)):
        question = _first_question(conversation)
        if len(conversation.media) == 1 and conversation.media[0].place is None and question:
            found.setdefault(conversation.media[0], question)
        if len(found) == MAX_EXAMPLES:
            break
    if not found:
        raise UserError(f"--examples {path}: no question in it is about one file on this machine")
    return list(found.items())


def keep_examples(found: Iterable[tuple[Media, str]], files: Files) -> Sequence[Example]:
    """Keep copies of the files, so that nothing else on the machine is read later."""
    kept = []
    for item, question in found:
        try:
            with open(item.path, "rb") as file:
                digest = files.add(file)
            files.hold(digest)
        except (OSError, Refusal) as problem:
            raise UserError(f"--examples: {item.path} cannot be kept: {problem}") from problem
        kept.append(Example(question, Path(item.path).name, digest))
    return kept


def _first_question(conversation: Conversation) -> str:
    message = next((each for each in conversation.messages if each["role"] == "user"), {"content": []})
    return " ".join(part["text"].strip() for part in message["content"] if part["type"] == "text").strip()
