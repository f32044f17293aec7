"""The JSON schema of recipes."""

import json

from train.recipe.recipe import Recipe


def schema_text() -> str:
    """Return the schema of a recipe; its `training` section is that of the installed transformers."""
    return json.dumps(Recipe.model_json_schema(), indent=2) + "\n"
