"""The part of a recipe that decides the weights, and how two recipes differ in it."""

from typing import Any, get_type_hints

from train.recipe.keys import harmless_keys
from train.recipe.recipe import Data, Lora, Recipe
from train.recipe.training_keys import TRAINING_KEYS

HARMLESS = harmless_keys(get_type_hints(Recipe, include_extras=True))
HARMLESS_LORA = harmless_keys(get_type_hints(Lora, include_extras=True))
HARMLESS_DATA = harmless_keys(get_type_hints(Data, include_extras=True))
HARMLESS_TRAINING = harmless_keys(TRAINING_KEYS)


def what_matters(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a dumped recipe without what cannot change the weights."""
    weights = [source["weight"] for source in recipe["data"]["train"]]
    return {
        **_without(recipe, HARMLESS),
        "lora": None if recipe["lora"] is None else _without(recipe["lora"], HARMLESS_LORA),
        "data": {
            **_without(recipe["data"], HARMLESS_DATA),
            "weights": None if set(weights) == {1} else weights,  # at 1 it does not matter how files are cut
        },
        "training": _without(recipe["training"], HARMLESS_TRAINING),
    }


def changed_values(before: dict[str, Any] | None, now: dict[str, Any], name: str = "") -> list[str]:
    """Return `key: before -> now` for each value that differs; nothing to compare with is no difference."""
    if before is None:
        return []
    differences = []
    for key in [*before, *(key for key in now if key not in before)]:
        label = f"{name}.{key}".removeprefix(".")
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            differences += changed_values(old, new, label)
        elif old != new:
            differences.append(f"{label}: {old} -> {new}")
    return differences


def _without(section: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}
