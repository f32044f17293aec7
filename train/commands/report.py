"""reeltune report: a run on one page."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def report(
    output_dir: Annotated[Path, Argument(help="the folder of a run: its training.output_dir", show_default=False)],
    out: Annotated[Path | None, Option(help="the page to write, HTML", show_default="report.html in it")] = None,
) -> None:
    """Write what came of a run as one HTML page that needs nothing else.

    \b
        reeltune report outputs/my-run

    A run writes it when it ends. This makes it anew, also of a run that was interrupted or is going on. Clips and
    pictures are shown as far as they are where the recipe says; no host is asked.
    """
    from train.report.write import report_of

    print(f"wrote {report_of(output_dir, out)}")
