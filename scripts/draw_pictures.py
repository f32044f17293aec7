"""Draw the README's pictures of a preview page and of a terminal into .github/images, from real runs.

python scripts/draw_pictures.py

Takes the demo's data and base from outputs/demo, which `make demo` leaves. The page needs chromium; without it, the
picture of the page stays as it is.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

from data.command import run_command
from data.errors import UserError

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / ".github" / "images"
WORK = Path("outputs/pictures")  # below the checkout, like outputs/demo
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGE_SIZE = (1180, 980)  # pixels of the browser's window: the page is as wide as it gets, and the first clips are seen
PALETTE = 256  # colours, which keep the PNG far below 200 kB
COLUMNS = 112  # of the terminal; longer lines end in an ellipsis
LAUNCH = (
    "accelerate launch --config_file accelerate_configs/cpu.yaml train/sft.py recipes/demo.yaml",
    f"training.output_dir={WORK}/run training.max_steps=40 training.save_steps=10 training.logging_steps=5",
)
LOGGED = re.compile(r" *\d+/\d+ +\d+\.\d{4} +\d")
LINES_BEFORE_KILL = 5  # of the log: step 25, behind the checkpoint of step 20


def main() -> None:
    os.chdir(ROOT)
    if not Path("outputs/demo/base/config.json").is_file():
        raise UserError("outputs/demo/base is not there: run `make demo` first")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
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
    """Start a run, kill it with -9, and give the same command again."""
    words = " ".join(LAUNCH).split()
    killed = run_until(words, LINES_BEFORE_KILL)
    finished = run_until(words, None)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), highlight=False)
    for output, ending in ((killed, ["Killed", ""]), (finished, [])):
        show_command(console)
        for line in [*output, *ending]:
            console.print(Text(line), overflow="ellipsis", no_wrap=True, style="white")
    svg = console.export_svg(title="a run that is killed with -9, and the same command again", unique_id="terminal")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # they would come from the network
    (IMAGES / "terminal.svg").write_text(svg, encoding="utf-8")
    print(f"wrote {IMAGES / 'terminal.svg'}")


def show_command(console: Console) -> None:
    first, second = LAUNCH
    console.print(Text.assemble(("$ ", "bold green"), (f"{first} \\", "bold bright_white")))
    console.print(Text(f"  {second}", style="bold bright_white"))


def run_until(words: list[str], num_lines: int | None) -> list[str]:
    """Return what a command shows without a terminal; kill it with its children after `num_lines` lines of its log."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None
    output, num_logged = [], 0
    for line in process.stdout:
        output.append(line.rstrip())
        num_logged += bool(LOGGED.match(line))
        if num_logged == num_lines:
            os.killpg(process.pid, signal.SIGKILL)
            break
    status = process.wait()
    if status != (0 if num_lines is None else -signal.SIGKILL):
        raise UserError(f"the run ended with status {status}, after: {output[-1:]}")
    return output


if __name__ == "__main__":
    run_command(main)
