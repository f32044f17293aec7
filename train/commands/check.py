"""reeltune check: the records and files of a recipe, before anything is trained."""

from pathlib import Path
from typing import Annotated

from typer import Option

from data.files import check_outputs
from train.commands.options import MOST, Overrides, RecipeFile


def check(
    recipe: RecipeFile,
    overrides: Overrides = None,
    json: Annotated[Path | None, Option(help="write the report here, for machines")] = None,
    fill_cache: Annotated[
        bool, Option("--fill-cache", help="decode only what data.frame_cache lacks, no file to its end")
    ] = False,
    workers: Annotated[int | None, Option(min=1, help="files decoded at once", show_default="one a core")] = None,
    seconds: Annotated[float, Option(min=0.1, max=MOST, help="what one file may take, in seconds")] = 300,
    memory: Annotated[float, Option(min=0.01, max=MOST, help="what decoding one file may take, in GiB (on Linux)")] = 4,
) -> None:
    """Read all records of a recipe's data and decode all their files, to the end: what is in them, and what is wrong.

    \b
        reeltune check my_recipe.yaml --json outputs/data.json

    A recipe with data.frame_cache gets the frames of all sound files put there. With --fill-cache that is all that is
    decoded, and what is there already is not: a fill that was interrupted goes on.

    Needs the checkpoint's processor and config, no weights and no GPU.

    Exit status: 0 when all is well, 1 when a record or a file is wrong or the cache takes no more, 2 for a wrong
    recipe or command line.
    """
    from train.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])  # a mistake is said at once
    check_outputs({"--json": json}, [recipe, *loaded.data.local_files()])
    from train.jobs.check import check_recipe

    check_recipe(loaded, json, fill_cache, workers, seconds, memory)
