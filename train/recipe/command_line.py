"""The command line of training: a recipe, and what it changes for one run."""

import argparse

from data.sources.source import check_local_files
from train.recipe.load import load_recipe
from train.recipe.recipe import Recipe

USAGE = """Fine-tune Video-LLaVA: recipe -> data -> model -> trainer -> adapter.

accelerate launch train/sft.py RECIPE [section.key=value ...]
"""


def read_command_line(argv: list[str] | None = None) -> tuple[Recipe, bool]:
    """Return the recipe with its overrides, and whether to start over. argv: None is the process's own.

    Raises UserError for what is wrong in the recipe, and for a data file that is missing.
    """
    parser = argparse.ArgumentParser(description=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a YAML file, see recipes/")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change the recipe for this run")
    parser.add_argument("--fresh", action="store_true", help="start over; an earlier run in the folder is moved aside")
    arguments = parser.parse_intermixed_args(argv)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    for source in recipe.data.sources([*recipe.data.train, *recipe.data.eval]):
        check_local_files(source)
    return recipe, arguments.fresh or recipe.resume == "never"
