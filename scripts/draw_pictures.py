"""Draw pictures of a preview page, of a run and of a chat in a terminal into .github/images, from real ones.

python scripts/draw_pictures.py [NAME ...]

Takes the demo's data, base and adapter from outputs/demo, which `make demo` leaves. The page needs chromium; without
it, its picture stays as it is. NAME: of the pictures to draw, preview, run or chat; all, without any.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data.command import run_command
from data.errors import UserError
from tests.browser import BROWSERS, find_browser
from tests.distributed.terminal import CTRL_D, REELTUNE, Terminal
from tests.terminals import left_on_screen

if TYPE_CHECKING:
    from rich.console import Console

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / ".github" / "images"
WORK = Path("outputs/pictures")  # below the checkout, like outputs/demo
PAGE_SIZE = (1180, 980)  # pixels of the browser's window: the page is as wide as it gets, and the first clips are seen
PALETTE = 256  # colours, which keep the PNG far below 200 kB
COLUMNS = 80  # of the terminal
TRAIN = (
    "reeltune train recipes/demo.yaml training.max_steps=20",
    "training.save_steps=10 training.logging_steps=2",
    f"training.output_dir={WORK}/run",
)
CLIP = "outputs/demo/clips/held_out/0003.mp4"
ADAPTER = "outputs/demo/adapter"
TYPED = (f"/video {CLIP}", "Which way does it move?", f"/frames {WORK}/frames.png", "What colour is the shape?")
SHOWN_AFTER = ("next question", "tokens in", "frames.png", "tokens in")  # what stands on the screen behind each line
NO_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]|\r")  # what moves the cursor, and asks for keys
KILLED_AFTER = " 14/20    0."  # a line of the log, behind the checkpoint of step 10; an evaluation has no loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pictures = {"preview": draw_preview, "run": draw_terminal, "chat": draw_chat}
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(pictures))
    names = parser.parse_args().names or list(pictures)
    if unknown := [name for name in names if name not in pictures]:
        raise UserError(f"{', '.join(unknown)}: no such picture; give some of {', '.join(pictures)}")
    os.chdir(ROOT)
    if not Path("outputs/demo/base/config.json").is_file():
        raise UserError("outputs/demo/base is not there: run `make demo` first")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    for name in names:
        pictures[name]()


def draw_preview() -> None:
    from PIL import Image

    browser = find_browser()
    if browser is None:
        return print(f"none of {', '.join(BROWSERS)} is installed: preview.png stays as it is")
    page = WORK / "preview.html"
    call = [sys.executable, "scripts/preview.py", "recipes/demo.yaml", "--out", str(page), "--rows", "1"]
    subprocess.run(call, check=True)
    width, height = PAGE_SIZE
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    screenshot = WORK / "preview.png"
    subprocess.run([browser, *options, f"--screenshot={screenshot}", page.resolve().as_uri()], check=True)
    picture = (
        Image.open(screenshot)
        .convert("RGB")
        .quantize(PALETTE, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    )
    picture.save(IMAGES / "preview.png", optimize=True)
    print(f"wrote {IMAGES / 'preview.png'}")


def draw_terminal() -> None:
    """Start a run in a terminal, kill it with -9, and give the same command again."""
    from rich.text import Text

    words = " ".join(TRAIN).split()[1:]
    killed = Terminal(*REELTUNE, *words, folder=ROOT)
    killed.wait_for(KILLED_AFTER)
    killed.close()
    finished = Terminal(*REELTUNE, *words, folder=ROOT)
    try:
        if status := finished.end(seconds=300):
            raise UserError(f"the run ended with status {status}, after: {left_on_screen(finished.shown)[-2:]}")
    finally:
        finished.close()
    console = recorder()
    for shown, ending in ((killed.shown, ["Killed", ""]), (finished.shown, [])):
        show_command(console)
        lines = left_on_screen(shown)
        for line in [*(line for line in lines if line), *ending]:
            console.print(Text(line), no_wrap=True, style="white")
            print(line)
    write_svg(console, "terminal", "a run that is killed with -9, and the same command again")


def draw_chat() -> None:
    """Talk to the demo's adapter about a clip, and look at its frames."""
    from rich.text import Text

    os.environ["COLORTERM"] = "truecolor"
    chat = Terminal(*REELTUNE, "chat", ADAPTER, folder=ROOT)
    try:
        chat.wait_for("> ")
        begin = chat.shown
        for line, words in zip(TYPED, SHOWN_AFTER, strict=True):
            before, chat.shown = chat.shown, ""
            chat.press(f"{line}\r".encode())
            chat.wait_for(words)
            while not chat.shown.endswith("> "):  # a prompt
                chat._read()
            chat.shown = before + chat.shown
        chat.press(CTRL_D)
        if status := chat.end():
            raise UserError(f"the chat ended with status {status}")
    finally:
        chat.close()
    console = recorder()
    console.print(Text.assemble(("$ ", "bold green"), (f"reeltune chat {ADAPTER}", "bold bright_white")))
    for line in NO_COLOUR.sub("", chat.shown[len(begin) - len("> ") :]).rstrip("> \n").split("\n"):
        console.print(Text.from_ansi(line), no_wrap=True)
    write_svg(console, "chat", "a conversation about a clip, and what the model sees of it")


def recorder() -> "Console":
    """Return a console that keeps what is printed, with all colours, and shows nothing."""
    from rich.console import Console

    nowhere = open(os.devnull, "w")
    return Console(record=True, width=COLUMNS, file=nowhere, highlight=False, color_system="truecolor")


def write_svg(console: "Console", name: str, title: str) -> None:
    svg = console.export_svg(title=title, unique_id=name)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # they would come from the network
    (IMAGES / f"{name}.svg").write_text(svg, encoding="utf-8")
    print(f"wrote {IMAGES / f'{name}.svg'}")


def show_command(console: "Console") -> None:
    from rich.text import Text

    first, *others = " \\\n    ".join(TRAIN).splitlines()
    console.print(Text.assemble(("$ ", "bold green"), (first, "bold bright_white")))
    for line in others:
        console.print(Text(line, style="bold bright_white"))


if __name__ == "__main__":
    run_command(main)
