"""Write recipes/recipe.schema.json, by which editors complete and check recipes, and the arguments that it has of
transformers (train/recipe/training_keys.json).

python scripts/write_schema.py
"""

import json
from pathlib import Path

import transformers

from data.files import write_whole
from train.commands.app import run
from train.commands.schema import schema
from train.recipe.derived_keys import describe_arguments
from train.recipe.training_keys import SET_ELSEWHERE

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "recipes" / "recipe.schema.json"
ARGUMENTS = ROOT / "train" / "recipe" / "training_keys.json"


def arguments_text() -> str:
    """Return the arguments of the installed transformers, for `train.recipe.training_keys`."""
    kept = {"transformers": transformers.__version__, "arguments": describe_arguments(SET_ELSEWHERE)}
    return json.dumps(kept, indent=1) + "\n"


if __name__ == "__main__":
    write_whole(ARGUMENTS, arguments_text())
    run(["--out", str(SCHEMA)], "write_schema", schema)
