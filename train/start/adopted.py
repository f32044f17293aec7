"""A recipe that continues an adapter: what the adapter says is taken over, and what contradicts it is refused."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from data.checkpoint_files import ADAPTER_CONFIG
from data.errors import UserError, UserErrors, many
from data.processor import set_up_processor
from data.tokens.new_tokens import add_new_tokens
from train.model.adapters import target_pattern
from train.model.bare import bare_model
from train.model.token_rows import token_ids_of
from train.model.weight_files import ADAPTER_WEIGHTS
from train.ranks.agreement import same_on_all
from train.recipe.problems import dotted
from train.recipe.recipe import Lora, Recipe
from train.recipe.rules import impossible_parts
from train.results.artifact import Artifact, open_artifact
from train.results.loading import processor_of
from train.run_folder.checkpoint import checkpoints
from train.run_folder.open_run import noted_start
from train.start.earlier_adapter import KEY, EarlierAdapter, notice_of, open_earlier

PARTS = ("decoder", "decoder+projector")


def continue_adapter(recipe: Recipe, fresh: bool) -> tuple[Recipe, EarlierAdapter | None, list[str]]:
    """Look at the adapter of lora.start_from, and take over what it says.

    Returns the whole recipe, the adapter, None without any, and what the user should know. ALL RANKS: they must find
    the same adapter.
    """
    lora = recipe.lora
    if lora is None or lora.start_from is None:
        return recipe, None, []
    _refuse_own_folder(lora.start_from, recipe.training["output_dir"])
    base = recipe.model.name_or_path, recipe.model.revision
    earlier = open_earlier(lora.start_from, lora.start_revision, *base)
    if earlier is None and not fresh:
        earlier = _as_continued(recipe)
    if earlier is None:
        raise _missing(lora.start_from)
    same_on_all(earlier.digest, f"{KEY}: {lora.start_from} is not the same adapter on all machines")
    notice = notice_of(earlier)
    return adopt(recipe, earlier), earlier, [notice] if notice else []


def as_adopted(recipe: Recipe) -> Recipe:
    """Return the recipe with what the adapter of lora.start_from says, as it is trained; no weight is read for that.

    For those who look at a recipe before it is trained: ranks, layers and new tokens are those of the adapter.
    """
    lora = recipe.lora
    if lora is None or lora.start_from is None:
        return recipe
    base = recipe.model.name_or_path, recipe.model.revision
    earlier = open_earlier(lora.start_from, lora.start_revision, *base, compares=False)
    if earlier is None:
        raise _missing(lora.start_from)
    return adopt(recipe, earlier)


def _missing(name: str) -> UserError:
    return UserError(f"{KEY}: no such folder, and no such adapter on the hub or in its cache: {name}")


def begins_with(earlier: EarlierAdapter | None, checkpoint: str | None) -> Artifact | None:
    """Return what the model is loaded with: a run that goes on has no need of the adapter that it began with."""
    if earlier is None:
        return None
    if checkpoint is None or not Path(checkpoint, ADAPTER_WEIGHTS).is_file():
        return earlier.artifact
    return open_artifact(checkpoint, earlier.artifact.base, earlier.artifact.revision)


def _as_continued(recipe: Recipe) -> EarlierAdapter | None:
    """Return an adapter that is gone as the newest checkpoint of a run that began with it has it; None without any."""
    assert recipe.lora is not None and recipe.lora.start_from is not None
    out, resume = Path(recipe.training["output_dir"]), recipe.resume
    folders = checkpoints(out)[::-1] if resume == "auto" else [Path(resume)]
    folder = next((each for each in folders if (each / ADAPTER_CONFIG).is_file()), None)
    digest = noted_start(out)
    if folder is None or digest is None:
        return None
    earlier = open_earlier(str(folder), None, recipe.model.name_or_path, recipe.model.revision)
    return earlier and replace(earlier, name=recipe.lora.start_from, digest=digest)


def adopt(recipe: Recipe, earlier: EarlierAdapter) -> Recipe:
    """Return the recipe with the adapter's settings; UserErrors with one line for each key that contradicts them.

    Only what the recipe sets itself can: what it leaves out is the adapter's. Its dropout may be another one.
    """
    lora = recipe.lora
    assert lora is not None
    model = bare_model(earlier.artifact.config)
    found, tokens = _settings_of(earlier, model), _tokens_of(earlier)
    lines = list(_contradictions(lora, found, earlier, model))
    if recipe.model.add_tokens not in ([], tokens):
        lines.append(f"model.add_tokens: {recipe.model.add_tokens} contradicts {earlier.name}, which has {tokens}")
    if lines:
        raise UserErrors(lines)
    if "dropout" not in lora.model_fields_set:
        found["dropout"] = earlier.settings.get("lora_dropout", 0.0)
    whole = {"lora": lora.model_copy(update=found), "model": recipe.model.model_copy(update={"add_tokens": tokens})}
    adopted = recipe.model_copy(update=whole)
    if impossible := [f"{dotted(keys[0])}: {text}" for keys, text in impossible_parts(adopted)]:
        raise UserErrors([f"{line} ({KEY}: {earlier.name})" for line in impossible])
    return adopted


def _refuse_own_folder(name: str, output_dir: str) -> None:
    """Raise UserError for a run that would begin with what it is going to write itself."""
    start, out = Path(name).resolve(), Path(output_dir).resolve()
    if start == out or out in start.parents:
        raise UserError(
            f"{KEY}: {name} is in the folder that training writes into; give training.output_dir another one"
        )


def _tokens_of(earlier: EarlierAdapter) -> list[str]:
    """Return the tokens that an adapter brought with it; UserError where they are not the next ones of its base."""
    if not (ids := token_ids_of(earlier.settings)):
        return []
    artifact = earlier.artifact
    tokens = [str(token) for token in processor_of(artifact).tokenizer.convert_ids_to_tokens(ids)]
    of_base = set_up_processor(artifact.base, artifact.revision, num_frames=1, config=artifact.config)[0]
    try:
        is_same = add_new_tokens(of_base, tokens) == ids
    except UserError:
        is_same = False
    if not is_same:
        raise UserError(f"{KEY}: {earlier.name} trains tokens {ids}, which are not the next ones of {artifact.base}")
    return tokens


def _settings_of(earlier: EarlierAdapter, model: nn.Module) -> dict[str, Any]:
    """Return the keys of `lora` as they would have to be to make this adapter."""
    settings = earlier.settings
    return {
        "r": settings.get("r", 8),
        "alpha": settings.get("lora_alpha", 8),
        "target": _target_of(earlier, model),
        "modules_to_save": sorted(settings.get("modules_to_save") or []),
        "use_dora": bool(settings.get("use_dora")),
        "use_rslora": bool(settings.get("use_rslora")),
        "init_lora_weights": True,
        "bias": settings.get("bias") or "none",
    }


def _target_of(earlier: EarlierAdapter, model: nn.Module) -> str:
    """Return the shortest value of lora.target that gives the adapted layers."""
    own = earlier.settings.get("target_modules")
    for target in (*PARTS, *([own] if isinstance(own, str) else [])):
        if _layers_of(target, model) == earlier.adapted:
            return target
    return "|".join(map(re.escape, sorted(earlier.adapted)))


def _layers_of(target: str, model: nn.Module) -> frozenset[str]:
    """Return the names of the linear layers that a value of lora.target means."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    try:
        pattern = target_pattern(model, target)
    except UserError:  # it matches nothing
        return frozenset()
    return frozenset(name for name in linear if re.fullmatch(pattern, name))


def _contradictions(lora: Lora, found: dict[str, Any], earlier: EarlierAdapter, model: nn.Module) -> Iterator[str]:
    for key in sorted(lora.model_fields_set & found.keys(), key=list(found).index):
        wanted, there = getattr(lora, key), found[key]
        if key == "modules_to_save":
            wanted = sorted(wanted)
        is_same = _layers_of(wanted, model) == earlier.adapted if key == "target" else wanted == there
        if is_same or (key == "init_lora_weights" and wanted is True):
            continue
        if key == "init_lora_weights":
            yield f"lora.{key}: {wanted} is for new matrices, those of {earlier.name} are trained already; remove it"
        elif key == "target":
            number = len(earlier.adapted)
            yield f"lora.{key}: {wanted!r} is not what {earlier.name} adapts ({many(number, 'layer')}); remove it"
        else:
            yield f"lora.{key}: {wanted} contradicts {earlier.name}, which has {there}; remove it"
