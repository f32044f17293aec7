"""A YAML file and overrides -> a recipe.

`load_recipe` reports everything that is wrong at once, before a weight or a clip is touched.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.errors import UserError, UserErrors
from train.recipe.keys import plain_keys, sections
from train.recipe.problems import Keys, dotted, find_problems
from train.recipe.recipe import Data, Lora, Model, Recipe
from train.recipe.rules import impossible_combinations
from train.recipe.training_keys import DEFAULTS, SET_ELSEWHERE, TRAINING_KEYS
from train.recipe.yaml_text import parse_override, read_recipe, set_override

KNOWN_KEYS = {
    **{section: list(model.model_fields) for section, model in sections(Recipe)},
    "training": list(TRAINING_KEYS),
}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `section.key=value` overrides, later ones winning.

    Raises UserError with one line a problem, all of them: where, which key, what is wrong, what to do.
    """
    raw = read_recipe(path)
    written = copy.deepcopy(raw)
    lines, overridden = [], []
    for text in overrides:
        try:
            keys, value = parse_override(text)
            set_override(raw, keys, value)
            overridden.append(keys)
        except UserError as error:
            lines.append(str(error))
    recipe, problems = _validate(raw)
    for keys, text in problems.items():
        from_command_line = any(
            keys[: len(override)] == override or (keys == override[: len(keys)] and not _is_in(written, keys))
            for override in overridden
        )
        lines.append(f"{'command line' if from_command_line else path}: {dotted(keys)}: {text}")
    if lines or recipe is None:
        raise UserErrors(lines)
    return recipe


def read_kept_recipe(path: str | Path) -> dict[str, Any]:
    """Return the plain values of the recipe that lies beside a trained model, as far as it has any.

    It may come from a stranger, or from another version, whose keys need not be ours. Raises UserError in one line
    where a value is none that a recipe may have.
    """
    raw = read_recipe(path)
    try:
        Recipe.model_validate(raw)
    except ValidationError as error:
        wrong = [each for each in error.errors(include_url=False) if each["type"] not in ("missing", "extra_forbidden")]
        if wrong:
            problems = find_problems(wrong, raw, KNOWN_KEYS, SET_ELSEWHERE)
            keys, text = next(iter(problems.items()))
            raise UserError(f"{path}: {dotted(keys)}: {text}") from error
    return raw


def _is_in(raw: Any, keys: Keys) -> bool:
    for key in keys:
        entries = dict(enumerate(raw)) if isinstance(raw, list) else raw
        if not isinstance(entries, dict) or key not in entries:
            return False
        raw = entries[key]
    return True


def _validate(raw: dict[str, Any]) -> tuple[Recipe | None, dict[Keys, str]]:
    recipe, problems = None, {}
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        problems = find_problems(error.errors(include_url=False), raw, KNOWN_KEYS, SET_ELSEWHERE)
    faults = list(problems)
    for keys, text in impossible_combinations(_draft(raw, faults)):
        # A combination is judged only where its keys are in order themselves.
        if not any(_unknown(key, fault) for key in keys for fault in faults):
            problems[keys[0]] = text
    return recipe, problems


def _unknown(key: Keys, fault: Keys) -> bool:
    """Tell whether a fault hides the value at `key`; of a section (one key) only its presence matters."""
    return key[: len(fault)] == fault or (len(key) > 1 and fault[: len(key)] == key)


def _draft(raw: dict[str, Any], faults: list[Keys]) -> Recipe:
    """Return the recipe without its faulty keys, unvalidated, so that combinations of the others can be judged."""
    sound = _without(raw, faults)
    lora = sound.get("lora", {})
    return Recipe.model_construct(
        **{key: sound[key] for key in plain_keys(Recipe) if key in sound},
        model=Model.model_construct(**sound.get("model", {})),
        lora=None if lora is None else Lora.model_construct(**lora),
        data=Data.model_construct(**sound.get("data", {})),
        training={**DEFAULTS, **sound.get("training", {})},
    )


def _without(section: dict[str, Any], faults: list[Keys], at: Keys = ()) -> dict[str, Any]:
    sound = {}
    for key, value in section.items():
        here = (*at, key)
        if isinstance(value, dict) and here not in faults:
            sound[key] = _without(value, faults, here)
        elif not any(fault[: len(here)] == here for fault in faults):
            sound[key] = value
    return sound
