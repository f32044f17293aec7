"""Write recipes/recipe.schema.json, by which editors complete and check recipes.

python scripts/write_schema.py
"""

import json
from pathlib import Path

from train.recipe.recipe import Recipe

SCHEMA = Path(__file__).parent.parent / "recipes" / "recipe.schema.json"


def schema_text() -> str:
    """Return the schema of a recipe; its `training` section is that of the installed transformers."""
    return json.dumps(Recipe.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    print(f"wrote {SCHEMA}")
