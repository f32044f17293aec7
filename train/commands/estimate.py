"""reeltune estimate: the memory and time of a recipe, before anything is loaded."""

from pathlib import Path
from typing import Annotated

from typer import Option

from data.files import check_outputs
from train.commands.options import Overrides, RecipeFile


def estimate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    gpu: Annotated[
        str | None, Option(help="its name or size, e.g. H100 or 24GB", show_default="the one here, else many")
    ] = None,
    fit: Annotated[bool, Option("--fit", help="find the fewest changes with which it fits")] = False,
    questions: Annotated[
        int | None, Option(min=1, help="about each clip, instead of the recipe's data", show_default="as in the data")
    ] = None,
    json: Annotated[Path | None, Option(help="write the report here, for machines")] = None,
) -> None:
    """Count the memory that a recipe takes, part by part, and the time of an epoch on GPUs.

    \b
        reeltune estimate my_recipe.yaml --gpu 24GB --fit

    The recipe's own step is run on tensors that have shapes and no numbers, with the largest row of its data. Needs the
    checkpoint's processor and config, no weights and no GPU. docs/estimate.md says how far it can be trusted.
    """
    from train.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or [])  # a mistake is said at once
    check_outputs({"--json": json}, [recipe, *loaded.data.local_files()])
    from train.jobs.estimate import estimate_recipe

    estimate_recipe(recipe, overrides or [], gpu, fit, questions, json)
