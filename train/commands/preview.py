"""reeltune preview: a page of what the model will see."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from data.files import check_outputs
from train.commands.options import Overrides, RecipeFile


def preview(
    recipe: RecipeFile,
    out: Annotated[Path, Option(help="the page to write, HTML", show_default=False)],
    overrides: Overrides = None,
    rows: Annotated[int, Option(help="how many to show, of training and of evaluation each")] = 8,
    show: Annotated[
        Literal["rows", "longest", "cut", "left-out"],
        Option(
            help="the first epoch's first rows, or whole conversations: the longest, those cut to data.max_length, "
            "or those left out"
        ),
    ] = "rows",
) -> None:
    """Show what the model will see, and which of its tokens are trained, as one HTML page.

    \b
        reeltune preview my_recipe.yaml --out preview.html

    Needs the checkpoint's processor and config, no weights and no GPU.
    """
    from train.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])  # a mistake is said at once
    check_outputs({"--out": out}, [recipe, *loaded.data.local_files()])
    from train.jobs.preview import preview_recipe

    preview_recipe(loaded, recipe, out, rows, show)
