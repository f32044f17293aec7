"""Recipe text to plain dicts and back: YAML 1.2 scalars, no key twice, `section.key=value` overrides."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from data.errors import UserError, first_line
from train.recipe.problems import Keys, dotted

# PyYAML reads scalars by YAML 1.1, where `2e-4` is a string, `no` is False and `010` is eight. Editors and
# everybody's expectations follow YAML 1.2, so these patterns replace PyYAML's.
_SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


_PART = re.compile(r"(?P<key>[^\[\]]+)(?P<indices>(\[\d{1,6}\])*)")
MAX_BYTES = 2**18  # of a recipe, fifty times a long one; PyYAML takes two seconds for so many
MAX_VALUES = 2**14


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}

    def __init__(self, stream: str):
        super().__init__(stream)
        self.deep_construct = True  # makes an alias to its own parent an error instead of an endless value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Refuse a key that is given twice; PyYAML would silently keep the last."""
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":  # merged keys of merged keys grow without end
                raise yaml.constructor.ConstructorError(None, None, "keys cannot be merged", key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' is given twice; keep one", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would read as something else, so that any reader gets the same values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), [*_first, ""])


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a recipe file. Raises UserError with the line where it is no YAML."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8")
        if len(text) > MAX_BYTES:
            raise UserError(f"{path}: no recipe has more than {MAX_BYTES:,} bytes")
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe file; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read the recipe: {error.strerror}") from None
    recipe = _parse(text, f"{path}: ")
    if recipe is None:
        raise UserError(f"{path}: the recipe is empty; it needs at least model, data and training")
    if not isinstance(recipe, dict):
        raise UserError(f"{path}: a recipe is a mapping of sections, not a {type(recipe).__name__}")
    return recipe


def parse_override(text: str) -> tuple[Keys, Any]:
    """Return `section.list[0].key=value` as (("section", "list", 0, "key"), value); the value is YAML, maybe nested."""
    name, equals, value = text.partition("=")
    parts = [_PART.fullmatch(part) for part in name.strip().split(".")]
    if not equals or not all(parts):
        raise UserError(f"command line: '{text}': write section.key=value, e.g. training.max_steps=10")
    keys: list[str | int] = []
    for part in filter(None, parts):
        keys += [part["key"], *map(int, re.findall(r"\d+", part["indices"]))]
    return tuple(keys), _parse(value, f"command line: '{text}': ")


def set_override(recipe: dict[str, Any], keys: Keys, value: Any) -> None:
    """Set recipe[keys[0]][keys[1]]... in place; sections that are absent or null are created, and so is the place
    behind the last of a list."""
    inside: Any = recipe
    for depth, (key, next_key) in enumerate(pairwise(keys), start=1):
        if _get(inside, key) is None:
            _set(inside, keys[:depth], {} if isinstance(next_key, str) else [])
        inside = _get(inside, key)
        if not isinstance(inside, dict if isinstance(next_key, str) else list):
            parent, wanted = dotted(keys[:depth]), "keys" if isinstance(next_key, str) else "numbered entries"
            raise UserError(f"command line: {dotted(keys)}: {parent} has no {wanted}; write {parent}=value")
    _set(inside, keys, value)


def _get(inside: Any, key: str | int) -> Any:
    """Return what a mapping or list has at a key; None without any."""
    if isinstance(key, str):
        return inside.get(key)
    return inside[key] if key < len(inside) else None


def _set(inside: Any, keys: Keys, value: Any) -> None:
    key = keys[-1]
    if isinstance(key, str) or key < len(inside):
        inside[key] = value
    elif key == len(inside):
        inside.append(value)
    else:
        raise UserError(f"command line: {dotted(keys)}: the next entry would be {dotted((*keys[:-1], len(inside)))}")


def to_yaml(recipe: dict[str, Any]) -> str:
    """Return YAML text that `read_recipe` reads back to the same values, keys in the given order."""
    return yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _parse(text: str, where: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{where}{line}not valid YAML: {error.problem}") from None
    except RecursionError:
        raise UserError(f"{where}not a recipe: it is nested too deeply") from None
    except Exception as error:  # a character that YAML forbids, a number of 5,000 digits, `!!float x`: without a line
        raise UserError(f"{where}not valid YAML: {first_line(error)}") from None
    if _num_values(value, {}) > MAX_VALUES:
        raise UserError(f"{where}not a recipe: its aliases make more than {MAX_VALUES:,} values of it")
    return value


def _num_values(value: Any, known: dict[int, int]) -> int:
    """Count the values in a value, those behind aliases as often as they stand there, and walk each but once."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = [*value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(value)]
