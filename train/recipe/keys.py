"""Facts about keys that are written where a key is declared, and the lists that follow from the declarations."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from typing_extensions import is_typeddict


class Harmless:
    """Marks a key that may change between a run and its continuation, because the weights do not depend on it."""


def harmless_keys(hints: Mapping[str, Any]) -> set[str]:
    """Return the names whose type carries the mark, as in `Annotated[str, Harmless()]`."""
    return {name for name, hint in hints.items() if any(isinstance(part, Harmless) for part in _parts(hint))}


def sections(model: type[BaseModel], at: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the dotted name and the model of every section, the model itself ("") first."""
    yield at, model
    for name, field in model.model_fields.items():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from sections(part, f"{at}.{name}".removeprefix("."))


def plain_keys(model: type[BaseModel]) -> list[str]:
    """Return the keys of a model that hold a value, and not a section of further keys."""
    return [name for name, field in model.model_fields.items() if not any(map(_is_section, _parts(field.annotation)))]


def _is_section(hint: Any) -> bool:
    return is_typeddict(hint) or (isinstance(hint, type) and issubclass(hint, BaseModel))


def _parts(hint: Any) -> Iterator[Any]:
    """Yield a type, the types that it is made of, and what `Annotated` adds to them."""
    yield hint
    for part in get_args(hint):
        yield from _parts(part)
