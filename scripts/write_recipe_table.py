"""Writes the table of recipe keys into README.md, between its markers, from the models that check recipes.

python scripts/write_recipe_table.py
"""

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from transformers import TrainingArguments

from train.recipe.recipe import Data, Dataset, Lora, Model, Recipe
from train.recipe.training_arguments import DEFAULTS, SET_ELSEWHERE

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- recipe keys -->", "<!-- end of recipe keys -->"
SECTIONS = {"model": Model, "lora": Lora, "data": Data, "data.train[]": Dataset}
Row = tuple[str, str, str]


def recipe_rows() -> Iterator[Row]:
    """(key, default, meaning) of everything in a recipe but `training`."""
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            yield f"{section}.{name}", _default(field), _meaning(field)
    yield "data.eval[]", "", "The same keys as data.train[]."
    yield "resume", _default(Recipe.model_fields["resume"]), _meaning(Recipe.model_fields["resume"])


def training_rows() -> Iterator[Row]:
    """(key, default here, transformers' default) of the arguments where the two differ."""
    theirs = {field.name: field.default for field in fields(TrainingArguments)}
    yield "training.output_dir", "required", _code(theirs["output_dir"])
    for name, value in DEFAULTS.items():
        if value != theirs[name]:
            yield f"training.{name}", _code(value), _code(theirs[name])


def with_tables(readme: str) -> str:
    """The README with current tables between its markers."""
    tables = "\n\n".join(
        [
            _table(("key", "default", "meaning"), recipe_rows()),
            "`training` takes the arguments of `transformers.TrainingArguments` by their own names. These have another "
            "default here; `bf16`, `fp16`, `use_cpu` and `dataloader_pin_memory` follow from `model.dtype` and the "
            "machine.",
            _table(("key", "default", "in transformers"), training_rows()),
            "These arguments may not be set:",
            _table(("key", "why"), ((f"training.{name}", why) for name, why in SET_ELSEWHERE.items())),
        ]
    )
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else _code(field.default)


def _code(value: Any) -> str:
    """A value as YAML spells it."""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _meaning(field: FieldInfo) -> str:
    meaning = " ".join(field.description.split())
    if choices := list(_choices(field.annotation)):
        meaning += f" One of {', '.join(choices)}{', null' if field.default is None else ''}."
    return meaning


def _choices(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for part in get_args(annotation):
        yield from _choices(part)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    escaped = ((f"`{key}`", *(cell.replace("|", r"\|") for cell in cells)) for key, *cells in rows)
    lines = [head, ("---",) * len(head), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {README}")
