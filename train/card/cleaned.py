"""Values without what tells of the machine and the person that they come from: local paths, keys, tokens."""

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from data.media.locate import SCHEMES
from data.media.locate import without_secrets as without_keys

# Keys of JSON values whose texts are words of the model's, never places.
WORDS_KEY = re.compile(r"token$|tokens(_decoder|_map)?$|^content$|template$|prompt$")
SECRET_KEY = re.compile(r"token|secret|password|api_?key", re.IGNORECASE)
# Tokens of the hub, GitHub, OpenAI and its like, Amazon, Google, Slack, and JSON web tokens.
SECRET_TEXT = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16}|"
    r"AIza[\w-]{30,}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)


def without_local_paths(value: Any, key: str = "") -> Any:
    """Return JSON values whose local paths are only the last name, wherever they stand; tokens and templates stay."""
    if isinstance(value, dict):
        return {name: without_local_paths(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [without_local_paths(item, key) for item in value]
    return without_place(value) if isinstance(value, str) and not WORDS_KEY.search(key) else value


def without_secrets(value: Any, key: str = "") -> Any:
    """Return a recipe's values, local paths cut to their last name, without what looks like a token or password."""
    if isinstance(value, dict):
        return {
            str(name): without_secrets(item, str(name))
            for name, item in value.items()
            if not (isinstance(item, str) and SECRET_KEY.search(str(name)))
        }
    if isinstance(value, list):
        return [without_secrets(item, key) for item in value]
    if not isinstance(value, str):
        return value
    return SECRET_TEXT.sub("(removed)", value if WORDS_KEY.search(key) else without_place(value))


def without_place(text: str) -> str:
    """Return a text without what tells of this machine: the folders of a path, the keys in an address."""
    if text.lower().startswith(SCHEMES):
        try:
            return without_keys(text)
        except ValueError:
            return "(removed)"
    return last_name(text)


def last_name(text: str) -> str:
    """Return `text`, or only its last name where it is a path of any system that is absolute or leaves its folder."""
    if "\n" in text or not re.search(r"\w", text):
        return text
    stripped = re.sub(r"^file:/*", "/", text.strip(), flags=re.IGNORECASE)
    paths = PurePosixPath(stripped), PureWindowsPath(stripped)
    leads_out = any(path.is_absolute() or ".." in path.parts for path in paths)
    if leads_out or stripped.startswith(("~", "$", "%", "\\")):
        return PureWindowsPath(PurePosixPath(stripped).name).name or "(removed)"
    return text
