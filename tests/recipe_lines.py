"""The lines about a recipe that is refused."""

from pathlib import Path

import pytest

from data.errors import UserError
from train.recipe.load import load_recipe


def problems(path: Path, *overrides: str) -> list[str]:
    """Return the lines of the error, without the name of the file or `command line`."""
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return [line.split(": ", 1)[1] for line in str(caught.value).splitlines()]
