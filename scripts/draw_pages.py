"""Draw pictures of pages for the documents into .github/images: a run's report, TensorBoard's pictures of answers, and
the page of `reeltune serve`.

python scripts/draw_pages.py [NAME ...]

Talks to the adapter that `make demo` leaves in outputs/demo. For report and samples, trains the demo once more, with
evaluations, on its data and base; a run that is there already is shown as it is. Needs chromium. NAME: of the pages to
draw; all, without any.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from data.command import run_command
from data.errors import UserError
from tests.browser import BROWSERS, browser, find_browser, free_port, opened, save_content, save_picture, served
from tests.distributed.terminal import REELTUNE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / ".github" / "images"
RUN = Path("outputs/pages/demo")  # below the checkout, like outputs/demo
TRAIN = (
    *("train", "recipes/demo.yaml", f"training.output_dir={RUN}"),
    "data.eval[0]={path: outputs/demo/held_out_new.json, name: direction, metric: auto}",
    "data.eval[1]={path: outputs/demo/held_out_easy.json, name: colour_shape_place, metric: auto, max_questions: 300}",
    *("training.eval_strategy=steps", "training.eval_steps=25", "training.logging_steps=5"),
)
DEMO = Path("outputs/demo")
CLIP = DEMO / "clips" / "held_out" / "0003.mp4"
QUESTIONS = ("Which way does it move?", "What colour is the shape?")
WIDE, NARROW = 1280, 390  # pixels of a window


def draw_report(started: "Browser") -> None:
    """Draw the top of the report in a wide window, and its answers in the dark on a phone."""
    page = (RUN / "report.html").resolve().as_uri()
    with opened(started, page, WIDE, 1480) as shown:
        save_picture(shown.page, IMAGES / "report.webp")
    with opened(started, f"{page}#answers", NARROW, 844, "dark", density=2) as shown:
        save_picture(shown.page, IMAGES / "report_narrow.webp")


def draw_samples(started: "Browser") -> None:
    """Draw TensorBoard's page of pictures, the slider of some questions at its first step."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(RUN / "tensorboard"), "--host", "127.0.0.1"]
    port = free_port()
    with (
        served([*command, "--port", str(port)], port) as address,
        opened(started, f"{address}#images", WIDE, 820) as shown,
    ):
        shown.page.locator("img").first.wait_for()
        sliders = shown.page.locator("tf-image-loader paper-slider")
        for number in range(1, sliders.count(), 4):
            sliders.nth(number).focus()
            shown.page.keyboard.press("Home")
        shown.page.locator("tf-image-loader").first.scroll_into_view_if_needed()
        shown.page.wait_for_timeout(3000)  # pictures fade in
        save_picture(shown.page, IMAGES / "tensorboard_answers.webp")


def draw_talk(started: "Browser") -> None:
    """Draw a conversation about a clip with the demo's adapter and its base, its frames, and the page on a phone."""
    port = free_port()
    words = ("serve", DEMO / "adapter", "--name", "demo", "--port", port, "--examples", DEMO / "held_out_new.json")
    with served([*REELTUNE, *map(str, words)], port) as address:
        with opened(started, address, WIDE, 860, density=2) as shown:
            talk_about_clip(shown.page, is_compared=True)
            save_picture(shown.page, IMAGES / "talk.webp")
            content = shown.page.locator("#frames").screenshot()
            save_content(content, IMAGES / "talk_frames.webp")
        with opened(started, address, NARROW, 844, "dark", density=2) as shown:
            talk_about_clip(shown.page, is_compared=False)
            save_picture(shown.page, IMAGES / "talk_narrow.webp", full_page=True)


def talk_about_clip(page: "Page", is_compared: bool) -> None:
    """Show a clip and ask about it, once the page is there."""
    page.locator("#drop input").set_input_files(CLIP)
    page.locator("#frames img").nth(7).wait_for()
    if is_compared:
        page.get_by_label("Ask the base").check()
        page.locator("#side-base").wait_for()
    for number, question in enumerate(QUESTIONS, start=1):
        page.locator("#question textarea").fill(question)
        page.locator("#question textarea").press("Enter")
        page.locator("#side-own [data-testid=bot]").nth(number - 1).wait_for()
        page.locator("#told p", has_text="tokens in").wait_for()
        if is_compared:
            page.locator("#told p", has_text="without the adapter").wait_for()
    page.wait_for_timeout(500)  # it scrolls


PAGES: dict[str, Callable[["Browser"], None]] = {"report": draw_report, "samples": draw_samples, "talk": draw_talk}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PAGES))
    names = parser.parse_args().names or list(PAGES)
    if unknown := [name for name in names if name not in PAGES]:
        raise UserError(f"{', '.join(unknown)}: no such page; give some of {', '.join(PAGES)}")
    if find_browser() is None:
        raise UserError(f"none of {', '.join(BROWSERS)} is installed; install chromium")
    os.chdir(ROOT)
    if not (DEMO / "base" / "config.json").is_file():
        raise UserError(f"{DEMO}/base is not there: run `make demo` first")
    if set(names) - {"talk"}:
        train_demo()
    with browser() as started:
        for name in names:
            PAGES[name](started)
            print(f"drew {name}")


def train_demo() -> None:
    """Train the demo with evaluations, unless that was done before."""
    from train.commands.app import run

    if not (RUN / "report.html").is_file():
        run(list(TRAIN))


if __name__ == "__main__":
    run_command(main)
