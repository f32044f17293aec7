"""The fewest changes of a recipe that let it fit a GPU, found by counting each."""

from collections.abc import Callable, Iterator
from itertools import combinations

from train.estimating.gpus import Gpu, fits
from train.estimating.need import Need
from train.recipe.recipe import Recipe
from train.recipe.recomputation import KEYS, LEAST_FIRST, VALUES, Recomputation, possible

Change = dict[str, object]
SMALL_RANK = 16  # an eighth of the default


def possible_changes(recipe: Recipe, longest_row: int) -> list[Change]:
    """Return changes of one kind each, those that cost least first.

    The first four leave what is learned as it is but for rounding. longest_row: tokens of the longest group, which
    every row must hold.
    """
    changes: list[Change] = []
    if recipe.memory != "auto":
        key = next((key for key in KEYS if recipe.training.get(key) is not None), "gradient_checkpointing")
        more = LEAST_FIRST[LEAST_FIRST.index(recipe.recomputation) + 1 :]
        changes.extend({f"training.{key}": VALUES[each]} for each in more)
    if recipe.training["per_device_train_batch_size"] > 1:
        changes.append({"training.per_device_train_batch_size": 1})
    if recipe.data.packing == "shared_prefix" and longest_row < recipe.data.max_tokens_per_row:
        changes.append(
            {"data.max_tokens_per_row": longest_row, "data.max_length": min(recipe.data.max_length, longest_row)}
        )
    if "8bit" not in recipe.training.get("optim", ""):
        changes.append({"training.optim": "paged_adamw_8bit"})
    if recipe.lora is not None and recipe.model.quantization is None:
        changes.append({"model.quantization": "nf4"})
    if recipe.lora is not None and recipe.lora.start_from is None and recipe.lora.r > SMALL_RANK:
        changes.append({"lora.r": SMALL_RANK, "lora.alpha": recipe.lora.alpha * SMALL_RANK / recipe.lora.r})
    return changes


def least_recomputation(recipe: Recipe, need_of: Callable[[Recipe], Need], gpu: Gpu) -> tuple[Recomputation, Need]:
    """Return the least recomputation with which a recipe fits, full where none does, and what it needs then."""
    for wanted in possible(recipe.training):
        need = need_of(recipe.recomputing(wanted))
        if fits(need, gpu):
            break
    return wanted, need


def fewest(changes: list[Change], fits: Callable[[Change], bool]) -> Change | None:
    """Return the smallest combination that fits, of equally many changes the first; None where not even all fit."""
    if not changes or not fits(_joined(changes)):
        return None
    return next(joined for joined in _combinations(changes) if fits(joined))


def _combinations(changes: list[Change]) -> Iterator[Change]:
    for number in range(1, len(changes) + 1):
        yield from map(_joined, combinations(changes, number))


def _joined(changes: tuple[Change, ...] | list[Change]) -> Change:
    return {key: value for change in changes for key, value in change.items()}


def as_overrides(change: Change) -> list[str]:
    """Return section.key=value, as the command line takes it."""
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in change.items()]
