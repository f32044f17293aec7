"""The lines that a person types, with their history, and what is shown in return."""

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from data.errors import visible

HISTORY_LINES = 1000
PROMPT = "> "
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Screen:
    """The two streams of a chat: answers go to stdout, lines about them to stderr."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty() and sys.stdout.isatty()

    def say(self, piece: str) -> None:
        """Show a piece of an answer at once; in a terminal, none of it moves the cursor."""
        if self.is_terminal:
            piece = "".join(part if part in "\n\t" else visible(part) for part in re.split(r"([\n\t])", piece))
        print(piece, end="", flush=True)

    def tell(self, line: str) -> None:
        """Show a line about the chat itself."""
        line = visible(line)
        is_dim = self.is_terminal and sys.stderr.isatty() and "NO_COLOR" not in os.environ
        print(f"{DIM}{line}{PLAIN}" if is_dim else line, file=sys.stderr, flush=True)


def lines(screen: Screen, words: Sequence[str]) -> Iterator[str]:
    """Yield what is typed, or piped in, line by line; the Tab key completes `words` and names of files."""
    if not screen.is_terminal:
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    with suppress(ImportError):  # a Python without it takes lines all the same
        _set_up_history(words)
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\nCtrl-D leaves")


def history_file() -> Path:
    """Return where the lines of earlier chats are kept."""
    home = os.environ.get("XDG_STATE_HOME", "")  # relative ones do not count, see `data.files.cache_folder`
    state = home if os.path.isabs(home) else os.path.expanduser("~/.local/state")
    return Path(state, "reeltune", "chat_history")


def _set_up_history(words: Sequence[str]) -> None:
    import atexit
    import readline

    path = history_file()
    with suppress(OSError):  # there is none yet, or nobody may read it
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)

    def save() -> None:
        with suppress(OSError):  # a home that nobody may write to
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)

    atexit.register(save)
    readline.set_completer_delims(" \t\n")
    readline.set_completer(lambda text, number: _nth(completions(text, readline.get_line_buffer(), words), number))
    readline.parse_and_bind("tab: complete")


def completions(text: str, line: str, words: Iterable[str]) -> list[str]:
    """Return what the word `text` at the end of a line may become: a command, or a file behind one."""
    if text == line:
        return [f"{word} " for word in words if word.startswith(text)]
    found = sorted(glob.glob(f"{glob.escape(os.path.expanduser(text))}*"))
    return [f"{path}/" if os.path.isdir(path) else path for path in found]


def _nth(found: Sequence[str], number: int) -> str | None:
    return found[number] if number < len(found) else None
