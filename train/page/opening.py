"""A page for `reeltune serve`, with examples from a data file."""

import os

from starlette.applications import Starlette

from train.page.examples import keep_examples, read_examples
from train.serving.endpoint import Endpoint
from train.serving.server import AddPage

TEMPORARY = "GRADIO_TEMP_DIR"  # gradio's own setting


def page_with(examples: str | None, media_root: str | None) -> AddPage:
    """Return what adds the page to an endpoint; examples: a data file. Raises UserError where it cannot be read."""
    found = read_examples(examples, media_root) if examples else []

    def add(app: Starlette, endpoint: Endpoint) -> None:
        os.environ.setdefault(TEMPORARY, str(endpoint.files.folder / "page"))  # which goes with the server
        from train.page.layout import add_page  # gradio reads that when it is imported

        add_page(app, endpoint, keep_examples(found, endpoint.files))

    return add
