"""The arguments of the installed transformers.TrainingArguments, described as a recipe's keys."""

from collections.abc import Collection
from dataclasses import fields
from enum import Enum
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter
from transformers import TrainingArguments
from transformers.training_args import trainer_log_levels


def describe_arguments(without: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of every argument but some, with its help as `description`, as the installed
    transformers has it."""
    hints = {name: _yaml_type(hint) for name, hint in get_type_hints(TrainingArguments).items()}
    levels = Literal[tuple(trainer_log_levels)]  # pyrefly: ignore[invalid-literal]: built at run time
    hints |= {"log_level": levels, "log_level_replica": levels}
    return {
        field.name: {**TypeAdapter(hints[field.name]).json_schema(), "description": field.metadata.get("help")}
        for field in fields(TrainingArguments)
        if field.name not in without
    }


def _yaml_type(hint: Any) -> Any:
    """Return the type as YAML can spell it: an enum becomes the literals of its values."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Literal[tuple(member.value for member in hint)]  # pyrefly: ignore[invalid-literal]: built at run time
    if get_origin(hint) is list:
        return list[_yaml_type(get_args(hint)[0])]  # pyrefly: ignore[invalid-annotation]: built at run time
    if get_origin(hint) in (Union, UnionType):
        options = get_args(hint)
        if any(isinstance(option, type) and issubclass(option, Enum) for option in options):
            options = [option for option in options if option is not str]  # `SchedulerType | str`
        return reduce(or_, map(_yaml_type, options))
    return hint
