"""Draw the README's pictures of a preview page and of a terminal into .github/images, from real runs.

python scripts/draw_pictures.py

Takes the demo's data and base from outputs/demo, which `make demo` leaves. The page needs chromium; without it, the
picture of the page stays as it is.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

from data.command import run_command
from data.errors import UserError
from tests.browser import BROWSERS, find_browser
from tests.distributed.terminal import REELTUNE, Terminal
from tests.terminals import left_on_screen

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
KILLED_AFTER = " 14/20    0."  # a line of the log, behind the checkpoint of step 10; an evaluation has no loss


def main() -> None:
    os.chdir(ROOT)
    if not Path("outputs/demo/base/config.json").is_file():
        raise UserError("outputs/demo/base is not there: run `make demo` first")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    browser = find_browser()
    if browser is None:
        print(f"none of {', '.join(BROWSERS)} is installed: preview.png stays as it is")
    else:
        draw_preview(browser)
    draw_terminal()


def draw_preview(browser: str) -> None:
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
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), highlight=False)
    for shown, ending in ((killed.shown, ["Killed", ""]), (finished.shown, [])):
        show_command(console)
        lines = left_on_screen(shown)
        for line in [*(line for line in lines if line), *ending]:
            console.print(Text(line), no_wrap=True, style="white")
            print(line)
    svg = console.export_svg(title="a run that is killed with -9, and the same command again", unique_id="terminal")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # they would come from the network
    (IMAGES / "terminal.svg").write_text(svg, encoding="utf-8")
    print(f"wrote {IMAGES / 'terminal.svg'}")


def show_command(console: Console) -> None:
    first, *others = " \\\n    ".join(TRAIN).splitlines()
    console.print(Text.assemble(("$ ", "bold green"), (first, "bold bright_white")))
    for line in others:
        console.print(Text(line, style="bold bright_white"))


if __name__ == "__main__":
    run_command(main)
