"""Recomputation in the words of a recipe, and in those of transformers."""

import json
from collections.abc import Mapping
from typing import Any, Literal

Recomputation = Literal["none", "selective", "full"]
LEAST_FIRST: tuple[Recomputation, ...] = ("none", "selective", "full")
SELECTIVE = "selective"
VALUES: dict[Recomputation, bool | str] = {"none": False, "selective": SELECTIVE, "full": True}
KEYS = ("activation_checkpointing", "gradient_checkpointing")  # new name first, which transformers 5.17 lacks
KWARGS = tuple(f"{key}_kwargs" for key in KEYS)
DESCRIPTION = (
    "Compute layers again in the backward pass: true all of them, selective all but attention and the products that "
    "take little memory, which is nearly as fast as false."
)


def recomputation_of(section: Mapping[str, Any]) -> Recomputation:
    """Return what a recipe's training section asks for."""
    wanted = next((section[key] for key in KEYS if section.get(key) is not None), False)
    return next(name for name, value in VALUES.items() if value == wanted)


def with_recomputation(section: Mapping[str, Any], wanted: Recomputation) -> dict[str, Any]:
    """Return a training section that asks for another recomputation."""
    others = {key: value for key, value in section.items() if key not in KEYS}
    return others if wanted == "none" else {**others, "gradient_checkpointing": VALUES[wanted]}


def without_selective(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section as transformers knows it: selective recomputation is ours to switch on, and torch's newer
    checkpointing is meant unless it says otherwise."""
    known = {key: False if key in KEYS and value == SELECTIVE else value for key, value in section.items()}
    given = settings_of(section)
    return {
        key: {"use_reentrant": False, **given} if key in KWARGS and value and given else value
        for key, value in known.items()
    }


def possible(section: Mapping[str, Any]) -> tuple[Recomputation, ...]:
    """Return the ways that go with the settings of a section, the least first: torch's older checkpointing chooses
    nothing."""
    return tuple(each for each in LEAST_FIRST if each != SELECTIVE or not settings_of(section).get("use_reentrant"))


def settings_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the section gives torch.utils.checkpoint besides."""
    given = next((section[key] for key in KWARGS if section.get(key)), {})
    try:
        settings = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        settings = None
    return settings if isinstance(settings, dict) else {}  # transformers says what is wrong with it
