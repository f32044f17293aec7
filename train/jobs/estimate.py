"""The memory and time that a recipe will take, without weights and without a GPU."""

import json
from collections.abc import Mapping
from pathlib import Path

from data.errors import UserError
from data.files import write_output
from train.estimating.fit import Change, as_overrides, fewest, least_recomputation, possible_changes
from train.estimating.gpus import Gpu, all_gpus, find_gpu, fits, gpu_at_hand
from train.estimating.need import Need, count
from train.estimating.report import (
    for_machines,
    in_gib,
    line_of_recomputation,
    lines_of_gpus,
    lines_of_memory,
)
from train.estimating.situation import (
    BaseFacts,
    RowsOfData,
    assumed,
    describe_row,
    look_at_base,
    look_at_data,
    situation,
)
from train.model.load import quiet_libraries
from train.recipe.load import load_recipe
from train.recipe.recipe import Recipe
from train.recipe.recomputation import VALUES, Recomputation, possible
from train.recipe.settings import in_words_of_recipes
from train.start.adopted import as_adopted

KEY = "training.gradient_checkpointing"


@in_words_of_recipes()
def estimate_recipe(
    path: Path, overrides: list[str], gpu: str | None, fit: bool, questions: int | None, json_file: Path | None
) -> None:
    """Print the estimate; with `fit` also the fewest changes that make the recipe fit `gpu`."""
    recipe = load_recipe(path, overrides)
    gpus = [find_gpu(gpu)] if gpu else ([at_hand] if (at_hand := gpu_at_hand()) else all_gpus())
    if fit and len(gpus) != 1:
        raise UserError("--fit: there is no GPU here; say which one is meant, e.g. --gpu 24GB")
    quiet_libraries()
    recipe = as_adopted(recipe)
    base = look_at_base(recipe)
    if not base.is_here:
        print(f"{recipe.model.name_or_path} is not on this machine: counted with its published sizes")
    rows = _rows(recipe, base, questions, says=True)
    needs = {wanted: _need(recipe.recomputing(wanted), base, rows) for wanted in possible(recipe.training)}
    taken = [_taken(recipe, needs, each) for each in gpus]
    wanted: Recomputation = taken[0] if len(gpus) == 1 else recipe.recomputation
    need, counted = needs[wanted], situation(recipe.recomputing(wanted), base, rows, on_gpu=True)
    print(f"a micro-batch: {describe_row(rows, base.visual_tokens)}; {counted.micro_batches} an optimizer step")
    is_quantised = recipe.model.quantization is not None
    on_gpus = [(each, needs[name]) for each, name in zip(gpus, taken, strict=True)]
    print(*lines_of_memory(need), *lines_of_gpus(on_gpus, is_quantised, rows), sep="\n")
    print(line_of_recomputation(needs, set(taken), recipe.memory == "auto"))
    report = for_machines(need, on_gpus, is_quantised, rows, counted.micro_batches)
    report["recomputation"] = wanted
    report["peaks"] = {name: each.peak for name, each in needs.items()}
    if not fits(need, gpus[0]) and len(gpus) == 1:
        print("it does not fit" + ("" if fit else "; --fit looks for the fewest changes"))
    if fit:
        report["changes"] = _say_changes(path, overrides, recipe, base, questions, gpus[0], rows, needs, wanted)
    if json_file:
        write_output("--json", json_file, json.dumps(report, indent=2) + "\n")


def _taken(recipe: Recipe, needs: Mapping[Recomputation, Need], gpu: Gpu) -> Recomputation:
    """Return what layers recompute on a GPU: the recipe's, or what memory: auto takes there."""
    if recipe.memory != "auto":
        return recipe.recomputation
    return least_recomputation(recipe, lambda tried: needs[tried.recomputation], gpu)[0]


def _rows(recipe: Recipe, base: BaseFacts, questions: int | None, says: bool) -> RowsOfData:
    rows = "--questions was given" if questions else look_at_data(recipe, base, recipe.training["seed"])
    if not isinstance(rows, str):
        return rows
    if says:
        print(f"rows are assumed, not those of the data: {rows}")
    return assumed(recipe, base, questions)


def _need(recipe: Recipe, base: BaseFacts, rows: RowsOfData) -> Need:
    return count(recipe, situation(recipe, base, rows, on_gpu=True))


def _say_changes(
    path: Path,
    overrides: list[str],
    recipe: Recipe,
    base: BaseFacts,
    questions: int | None,
    gpu: Gpu,
    rows: RowsOfData,
    known: dict[Recomputation, Need],
    taken: Recomputation,
) -> list[str] | None:
    """Print the fewest changes, and return them as overrides; none where it fits, None where no change helps.

    known: what each recomputation needs; taken: the recipe's.
    """
    needs = {tuple(as_overrides({KEY: VALUES[each]})): need for each, need in known.items()}
    needs[()] = known[taken]

    def need_with(change: Change) -> Need:
        key = tuple(as_overrides(change))
        if key not in needs:
            changed = as_adopted(load_recipe(path, [*overrides, *key]))
            rows = _rows(changed, base, questions, says=False)
            if changed.memory == "auto":
                needs[key] = least_recomputation(changed, lambda tried: _need(tried, base, rows), gpu)[1]
            else:
                needs[key] = _need(changed, base, rows)
        return needs[key]

    if fits(need_with({}), gpu):
        print(f"it fits {gpu.name} as it is")
        return []
    longest = max(group.prefix_length + sum(group.suffix_lengths) for row in rows.largest for group, _ in row)
    changes = [
        each for each in possible_changes(recipe, longest) if _is_allowed(path, [*overrides, *as_overrides(each)])
    ]
    found = fewest(changes, lambda change: fits(need_with(change), gpu))
    if found is None:
        print(f"no change that is tried here makes it fit {gpu.name}; take a smaller model, or several GPUs with FSDP")
        return None
    written = as_overrides(found)
    print(f"it fits {gpu.name} with {' '.join(written)} ({in_gib(need_with(found).peak)})")
    return written


def _is_allowed(path: Path, overrides: list[str]) -> bool:
    """Tell whether a recipe may be changed so: what it says elsewhere may speak against it."""
    try:
        load_recipe(path, overrides)
    except UserError:
        return False
    return True
