"""Write the table of recipe keys into its page, between two markers, from the models that check recipes.

python scripts/write_recipe_table.py
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from transformers import TrainingArguments

from train.recipe.entries import Dataset, EvalDataset
from train.recipe.keys import plain_keys, sections
from train.recipe.recipe import Recipe
from train.recipe.training_keys import DEFAULTS, SET_ELSEWHERE

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "docs" / "recipe.md", ROOT / "README.md")
BEGIN, END = "<!-- recipe keys -->", "<!-- end of recipe keys -->"
Line = tuple[str, str, str]


def page() -> Path:
    """Return the page that has the table."""
    return next(path for path in PAGES if path.exists())


def recipe_lines() -> Iterator[Line]:
    """Yield (key, default, meaning) of everything in a recipe but `training`."""
    for section, model in sections(Recipe):
        if section not in ("", "data.eval"):
            label = f"{section}[]" if section == "data.train" else section
            yield from (_line(f"{label}.{name}", field) for name, field in model.model_fields.items())
    yield "data.eval[]", "", "The same keys as data.train[], and these:"
    more = EvalDataset.model_fields.keys() - Dataset.model_fields.keys()
    yield from (_line(f"data.eval[].{name}", field) for name, field in EvalDataset.model_fields.items() if name in more)
    yield from (_line(name, Recipe.model_fields[name]) for name in plain_keys(Recipe))


def training_lines() -> Iterator[Line]:
    """Yield (key, default here, transformers' default) of the arguments where the two differ."""
    theirs = {field.name: field.default for field in fields(TrainingArguments)}
    yield "training.output_dir", "required", _code(theirs["output_dir"])
    for name, value in DEFAULTS.items():
        if value != theirs[name]:
            yield f"training.{name}", _code(value), _code(theirs[name])


def with_tables(text: str) -> str:
    """Return a page with current tables between its markers."""
    tables = "\n\n".join(
        [
            _table(("key", "default", "meaning"), recipe_lines()),
            "`training` takes the arguments of `transformers.TrainingArguments` by their own names. These have another "
            "default here; `bf16`, `fp16`, `use_cpu` and `dataloader_pin_memory` follow from `model.dtype` and the "
            "machine.",
            _table(("key", "default", "in transformers"), training_lines()),
            "These arguments may not be set:",
            _table(("key", "why"), ((f"training.{name}", why) for name, why in SET_ELSEWHERE.items())),
        ]
    )
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def _line(key: str, field: FieldInfo) -> Line:
    return key, "required" if field.is_required() else _code(field.default), _meaning(field)


def _code(value: Any) -> str:
    """Return a value as YAML spells it."""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _meaning(field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split())
    if choices := list(_choices(field.annotation)):
        meaning += f" One of {', '.join(choices)}{', null' if field.default is None else ''}."
    return meaning


def _choices(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for part in get_args(annotation):
        yield from _choices(part)


def _table(head: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    escaped = ((f"`{key}`", *(cell.replace("|", r"\|") for cell in cells)) for key, *cells in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ("---",) * len(head), *escaped])


if __name__ == "__main__":
    path = page()
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {path}")
