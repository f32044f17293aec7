"""The keys of a recipe for settings that `data` names by their plain names."""

from collections.abc import Iterator
from contextlib import contextmanager

from data.errors import ChangedDataError, SettingError, UserError
from train.recipe.recipe import Data, Model

SECTIONS = {"data": Data, "model": Model}


def recipe_key(setting: str) -> str:
    """Return data.max_tokens_per_row for max_tokens_per_row; a name that no section has stays as it is."""
    found = [f"{section}.{setting}" for section, model in SECTIONS.items() if setting in model.model_fields]
    return found[0] if found else setting


@contextmanager
def in_words_of_recipes() -> Iterator[None]:
    """Raise errors about settings with the recipe's keys, and say how a run starts over: for commands with a recipe."""
    try:
        yield
    except SettingError as error:
        raise UserError(f"{recipe_key(error.setting)}: {error.problem}") from error
    except ChangedDataError as error:
        raise UserError(f"{error}; bring the old files back, or start over with --fresh") from error
