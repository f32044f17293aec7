"""A chat in a terminal, or with the lines of a file: questions, answers word by word, commands that begin with /."""

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from data.decoding.moments import moments_of
from data.errors import UserError, in_words, many
from data.files import write_whole
from data.media.reference import Kind, Media
from data.media.storage import check_media
from train.talking.dialogue import Dialogue, media_named
from train.talking.frames import half_blocks, strip
from train.talking.sampling import Sampling
from train.talking.talker import Reply, Talker
from train.talking.terminal import Screen, lines

OFF = "off"  # takes a setting back
SHOWN_COLUMNS = 4  # frames in a line of a terminal
SHOWN_WIDTH = 80  # letters


class Chat:
    """A dialogue with a talker, shown on a screen."""

    def __init__(self, talker: Talker, dialogue: Dialogue, sampling: Sampling, screen: Screen):
        self.talker, self.dialogue, self.sampling, self.screen = talker, dialogue, sampling, screen
        self.folder: Path | None = None  # of pictures of frames, made with the first
        self.commands: dict[str, tuple[Callable[[str], None], str]] = {
            "/video": (lambda words: self.attach("video", words), "FILE [START-END]   show a clip, or seconds of it"),
            "/image": (lambda words: self.attach("image", words), "FILE               show a picture"),
            "/frames": (self.show_frames, "[FILE.png]        save a picture of what the model sees"),
            "/system": (self.set_system, "[TEXT|off]        the system prompt: show it, set it, do without"),
            "/set": (self.set_option, "[NAME VALUE|off]     temperature, top_p, top_k, seed, max_tokens, stop"),
            "/save": (self.save, "FILE.jsonl           add the conversation to a data file"),
            "/reset": (self.reset, "                   begin a new conversation"),
            "/help": (self.help, "                    show these lines"),
        }

    def run(self, typed: Iterable[str]) -> None:
        """Answer all lines. A mistake in a terminal is a line; in a file it is the end, so that nobody goes on without
        what it was about. Ctrl-C in a terminal stops what is being done, whatever it is, and not the conversation."""
        rest = iter(typed)
        while True:
            try:
                for line in rest:
                    self.take(line.strip())
                return
            except UserError as problem:
                if not self.screen.is_terminal:
                    raise
                self.screen.tell(f"error: {problem}")
            except KeyboardInterrupt:
                if not self.screen.is_terminal:
                    raise
                self.screen.tell("stopped")

    def take(self, line: str) -> None:
        """Answer a question, or do what a command says; // is a question that begins with /."""
        if not line:
            return
        if not line.startswith("/") or line.startswith("//"):
            return self.answer(line[1:] if line.startswith("//") else line)
        name, _, words = line.partition(" ")
        if name not in self.commands:
            raise UserError(f"{name} is no command; /help lists them")
        self.commands[name][0](words.strip())

    def answer(self, text: str) -> None:
        """Show the answer to a question as it comes. Ctrl-C ends it: what was said stays in the conversation, and a
        question without a word of answer is taken back."""
        began = time.perf_counter()
        messages, media = self.dialogue.ask(text)
        prompt = self.talker.prompt(messages, media, "the question")
        reply = self.talker.reply(prompt, media, self.sampling)
        pieces, first = iter(reply), 0.0
        try:
            for piece in pieces:
                first = first or time.perf_counter() - began
                self.screen.say(piece)
        except KeyboardInterrupt:
            if not self.screen.is_terminal:
                raise
        finally:
            pieces.close()
        if reply.finish or reply.text:
            self.screen.say("\n")
            self.dialogue.answered(messages, reply.text)
        if reply.finish is None:
            self.screen.tell("stopped" if reply.text else "stopped before the first word; the question is taken back")
            return
        seconds = time.perf_counter() - began
        self.screen.tell(timings(reply, first, seconds))

    def attach(self, kind: Kind, words: str) -> None:
        """Show a picture or clip with the next question."""
        item = media_named(kind, words)
        check_media(item)
        self.talker.look(item)
        self.dialogue.pending.append(item)
        self.screen.tell(f"{item.path} is shown with the next question")

    def show_frames(self, words: str) -> None:
        """Save a picture of all that the conversation shows, and print where it is."""
        shown = [*self.dialogue.media, *self.dialogue.pending]
        if not shown:
            raise UserError("nothing is shown yet; give a clip with /video or a picture with /image")
        for number, item in enumerate(shown, start=1):
            path = Path(words) if words else self._own_folder() / f"{number}-{Path(item.path).stem[:80]}.png"
            if words and len(shown) > 1:
                path = path.with_name(f"{path.stem}-{number}{path.suffix}")
            if path.suffix.lower() != ".png":
                raise UserError(f"{path} must end in .png")
            self._save_frames(item, path)

    def _save_frames(self, item: Media, path: Path) -> None:
        pixels = self.talker.look(item)
        moments = moments_of(self.talker.chosen(item), self.talker.num_frames) if item.kind == "video" else None
        labels = [f"{second:.2f} s" for second in moments.taken] if moments else []
        try:
            strip(pixels, labels).save(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {in_words(error)}") from error
        if self.screen.is_terminal:
            from rich.console import Console

            console = Console()
            picture = strip(pixels, columns=SHOWN_COLUMNS)
            width = min(SHOWN_WIDTH, console.width)
            console.print(half_blocks(picture, width if item.kind == "video" else width // 2), end="")
        self.screen.tell(f"what the model sees of {item.path}:")
        self.screen.say(f"{path}\n")

    def _own_folder(self) -> Path:
        self.folder = self.folder or Path(tempfile.mkdtemp(prefix="reeltune-frames-"))
        return self.folder

    def set_system(self, words: str) -> None:
        """Show the system prompt, or change it for all of the conversation."""
        if words:
            self.dialogue.system_prompt = None if words == OFF else words
        self.screen.tell(f"system prompt: {self.dialogue.system_prompt or 'none'}")

    def set_option(self, words: str) -> None:
        """Change an option of answers, and show them all."""
        if words:
            self.sampling = changed(self.sampling, words)
        told = (f"{name} {OFF if value in (None, ()) else value}" for name, value in asdict(self.sampling).items())
        self.screen.tell(", ".join(told))

    def save(self, words: str) -> None:
        """Add the conversation to a data file, as a record that training and evaluation read."""
        path = Path(words)
        if path.suffix != ".jsonl":
            raise UserError(f"{words or 'no file'}: write /save FILE.jsonl; a conversation is added as a line")
        if not self.dialogue.messages:
            raise UserError("nothing was said yet")
        try:
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            before += "\n" if before and not before.endswith("\n") else ""
            write_whole(path, before + json.dumps(self.dialogue.record(), ensure_ascii=False) + "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be written: {in_words(error)}") from error
        self.screen.tell(f"added to {path}")

    def reset(self, words: str) -> None:
        """Begin a new conversation."""
        self.dialogue.reset()
        self.screen.tell("a new conversation")

    def help(self, words: str) -> None:
        """Show what there is."""
        for name, (_, line) in self.commands.items():
            self.screen.tell(f"{name} {line}")
        if self.screen.is_terminal:
            self.screen.tell("Ctrl-C stops an answer, Ctrl-D leaves")


def timings(reply: Reply, first: float, seconds: float) -> str:
    """Return a line about an answer: first: the seconds until its first word, 0 without any; seconds: in all."""
    number = len(reply.prompt.ids)
    end = f"; it ends at max_tokens {reply.max_tokens}" if reply.finish == "length" else ""
    return (
        f"first word after {first or seconds:.2f} s, {number - reply.num_kept:,} of {number:,} tokens computed; "
        f"{many(len(reply.said), 'token')} in {seconds:.2f} s{end}"
    )


def changed(sampling: Sampling, words: str) -> Sampling:
    """Return the options with one changed, `NAME VALUE`; `off` is its default. Raises UserError."""
    name, *values = (quoted or plain for _, quoted, plain in re.findall(r"""(["'])(.+?)\1|(\S+)""", words))
    kinds = {"temperature": float, "top_p": float, "top_k": int, "seed": int, "max_tokens": int}
    defaults: dict[str, Any] = {field.name: field.default for field in fields(Sampling)}
    if name not in defaults or not values:
        raise UserError(f"write /set NAME VALUE, with a name of {', '.join(defaults)}")
    if values == [OFF]:
        return replace(sampling, **{name: defaults[name]})
    if name == "stop":
        return replace(sampling, stop=tuple(values))
    if len(values) > 1:
        raise UserError(f"{name} takes one value, not {' '.join(values)}")
    try:
        value: Any = kinds[name](values[0])
        return replace(sampling, **{name: value})
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: {values[0]!r} is no {'whole ' * (kinds[name] is int)}number") from error


def chat(talker: Talker, dialogue: Dialogue, sampling: Sampling) -> None:
    """Talk until there are no more lines."""
    screen = Screen()
    conversation = Chat(talker, dialogue, sampling, screen)
    if screen.is_terminal:
        screen.tell("/video FILE shows a clip, /help lists what else there is, Ctrl-D leaves")
    conversation.run(lines(screen, list(conversation.commands)))
