"""Write recipes/recipe.schema.json, by which editors complete and check recipes.

python scripts/write_schema.py
"""

from pathlib import Path

from train.commands.app import run
from train.commands.schema import schema

SCHEMA = Path(__file__).parent.parent / "recipes" / "recipe.schema.json"

if __name__ == "__main__":
    run(["--out", str(SCHEMA)], "write_schema", schema)
