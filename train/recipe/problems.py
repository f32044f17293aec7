"""Problems of a recipe in the user's words: the key, what it must be, what it is, what was meant."""

import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

Keys = tuple[str | int, ...]
Known = Mapping[str, list[str]]  # section ("" for the top level, "data.train" for its entries) -> its keys

_EXPECTED = {
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "list_type": "a list in [brackets]",
    "string_type": "text (quote what looks like a number)",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "too_short": "a list with at least one entry",
    "invalid_key": "a key that is text",
}
_LONGEST_CHOICE = 120  # characters; of a longer list of allowed values only the nearest is said
_LONGEST_LIST = 20  # keys


def find_problems(
    errors: Iterable[Any], recipe: dict[str, Any], known: Known, set_elsewhere: Mapping[str, str]
) -> dict[Keys, str]:
    """Return every problem that pydantic found: the keys that lead to the place -> one sentence. errors: its details.

    `set_elsewhere` answers for keys of `training` that exist but may not be set.
    """
    problems: dict[Keys, str] = {}
    expected: dict[Keys, list[str]] = {}
    for detail in errors:
        kind, where, value = detail["type"], detail["loc"], None
        if kind == "missing":
            problems[where] = "is missing; add it"
        elif where[-1] == "[key]" and "ctx" in detail:  # pydantic's place for the key of a mapping
            problems[where[:-1]] = _no_such_name(str(where[-2]), detail["ctx"]["expected"])
        elif kind == "extra_forbidden":
            elsewhere = set_elsewhere.get(str(where[-1])) if where[0] == "training" else None
            problems[where] = elsewhere or _unknown_key(where, known)
        else:
            where, value = _locate(recipe, where)
            expected.setdefault(where, []).append(_expectation(detail, value))
            problems[where] = f"must be {' or '.join(expected[where])}, got {_shown(value)}"
    return problems


def dotted(keys: Keys) -> str:
    """Return ("data", "train", 0, "path") as data.train[0].path."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def _locate(value: Any, where: Keys) -> tuple[Keys, Any]:
    """Return the part of pydantic's location that exists in the recipe (it also names members of unions)."""
    found = []
    for key in where:
        inside_dict = isinstance(value, dict) and key in value
        inside_list = isinstance(value, list) and isinstance(key, int)
        if not inside_dict and not inside_list:
            break
        value = value[key]
        found.append(key)
    return tuple(found), value


def _expectation(detail: Any, value: Any) -> str:
    if detail["type"] != "literal_error":
        message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        message = message.replace("String should match pattern", "text that matches")
        return _EXPECTED.get(detail["type"], message)
    choices = detail["ctx"]["expected"]
    names = choices.replace("'", "").replace(" or ", ", ").split(", ") if "'" in choices else []  # -1 is no name
    nearest = get_close_matches(str(value), names)
    if nearest:
        choices = choices if len(choices) <= _LONGEST_CHOICE else "one of transformers' names"
        return f"{choices} (did you mean '{nearest[0]}'?)"
    return choices if len(choices) <= _LONGEST_CHOICE else f"one of {choices[:_LONGEST_CHOICE]}..."


def _no_such_name(key: str, expected: str) -> str:
    names = expected.replace("'", "").replace(" or ", ", ").split(", ")
    nearest = get_close_matches(key, names, n=1)
    advice = f"did you mean '{nearest[0]}'?" if nearest else f"these are {', '.join(names)}"
    return f"is none of the names that may stand here; {advice}"


def _unknown_key(where: Keys, known: Known) -> str:
    section = ".".join(key for key in where[:-1] if isinstance(key, str))
    here = known.get(section, [])
    advice = f"the keys here are {', '.join(here)}" if len(here) <= _LONGEST_LIST else "remove it"
    return f"is no key of a recipe; {next(_suggestions(section, str(where[-1]), known), advice)}"


def _suggestions(section: str, key: str, known: Known) -> Iterator[str]:
    """Best first: the same name in another section, a similar one in this, a similar one in another."""
    others = {f"{place}.{name}".lstrip("."): name for place in known if place != section for name in known[place]}
    for path, name in others.items():
        if name == key:
            yield f"it belongs to {path.rpartition('.')[0] or 'the top level'}: write {path}"
    for name in get_close_matches(key, known.get(section, []), n=1):
        yield f"did you mean '{name}'?"
    for name in get_close_matches(key, others.values(), n=1, cutoff=0.75):  # stricter: there are 120 of them
        yield f"did you mean '{next(path for path, other in others.items() if other == name)}'?"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
