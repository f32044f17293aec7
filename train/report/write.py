"""output_dir/report.html: a run on one page, to look at and to send."""

import logging
from pathlib import Path

from data.errors import UserError, one_line
from data.files import write_output
from train.recipe.load import load_recipe
from train.recipe.recipe import Data
from train.report.frames import Frames
from train.report.page import page
from train.report.run_facts import read_run
from train.run_folder.file_names import RECIPE

logger = logging.getLogger(__name__)

REPORT = "report.html"


def report_of(output_dir: str | Path, out: Path | None = None) -> Path:
    """Write the page about a run's folder, into it unless `out` says where; clips that are gone have no frames.

    Asks no host. Raises UserError for a folder without a run and a page that cannot be written.
    """
    out = out or Path(output_dir) / REPORT
    html = page(read_run(output_dir), (frames := _frames(Path(output_dir))).of, frames.find)
    write_output("--out", out, html.encode(errors="replace"))  # halves of emojis, which UTF-8 cannot write
    return out


def write_report(output_dir: str | Path) -> None:
    """Write the page at the end of a run, whose result is safe by now: what goes wrong is a warning."""
    try:
        report_of(output_dir)
    except (OSError, ImportError, ValueError) as problem:
        logger.warning(f"{Path(output_dir) / REPORT} is not written: {one_line(problem)}")


def _frames(folder: Path) -> Frames:
    """Return what finds frames in the data that the run's recipe names; in none where it cannot be read."""
    try:
        data = load_recipe(folder / RECIPE).data
    except UserError:  # of another version, or a stranger's
        data = Data.model_construct(eval=[], train=[])
    return Frames(data, is_online=False)
