"""The adapter of `lora.start_from`: found, and checked against the recipe's base before a weight is loaded."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers.utils.hub import extract_commit_hash

from data.checkpoint_files import ADAPTER_CONFIG, CONFIG, PROCESSOR_FILES, find_file, read_json
from data.errors import UserError, one_line
from train.card.facts import RECIPE
from train.model.adapter_settings import INITS_BESIDE_BASE, check_patterns
from train.model.bare import bare_model
from train.model.fingerprint import FINGERPRINT, settings_digest
from train.model.token_rows import token_ids_of
from train.model.weight_files import ADAPTER_WEIGHTS, digest_of_files
from train.results.artifact import Artifact, open_artifact
from train.results.identity import difference_of_base

KEY = "lora.start_from"


@dataclass(frozen=True)
class EarlierAdapter:
    """name: as the recipe gives it. artifact: its files, on the recipe's base. settings: its adapter_config.json.
    adapted: the full names of the layers that it adapts. digest: a SHA-256 of its matrices and settings."""

    name: str
    artifact: Artifact
    settings: dict[str, Any]
    adapted: frozenset[str]
    digest: str


def open_earlier(
    name: str, revision: str | None, base: str, base_revision: str | None, compares: bool = True
) -> EarlierAdapter | None:
    """Look at an adapter; None where there is no such folder and no such repository.

    compares: with what training left of it and of its base, whose weights are read for that; its digest is empty else.
    Raises UserError for what is no adapter of safetensors that fits this base, and for one that was trained on another.
    """
    if (folder := _folder_of(name, revision)) is None:
        return None
    artifact = open_artifact(str(folder), base, base_revision)
    assert artifact.adapter_weights is not None
    settings = read_json(folder / ADAPTER_CONFIG)
    _check_kind(name, settings)
    digest = ""
    if compares:
        digests = [digest_of_files([artifact.adapter_weights]), settings_digest(settings)]
        _check_identity(name, artifact, digests)
        digest = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return EarlierAdapter(name, artifact, settings, _check_places(name, artifact, settings), digest)


def notice_of(earlier: EarlierAdapter) -> str | None:
    """Return what to tell of an adapter that brings no fingerprint."""
    if earlier.artifact.fingerprint is not None:
        return None
    named = earlier.settings.get("base_model_name_or_path")
    return (
        f"{KEY}: {earlier.name} has no fingerprint, so that it cannot be told whether {earlier.artifact.base} is the "
        f"base that it was trained on; it names {named!r}"
    )


def _folder_of(name: str, revision: str | None) -> Path | None:
    """Return the folder with an adapter's files; those of a repository on the hub are downloaded, of one commit all."""
    file = find_file(name, ADAPTER_CONFIG, revision)
    if file is None:
        if Path(name).is_dir() and (Path(name) / CONFIG).is_file():
            raise UserError(f"{KEY}: {name} is a full model, not an adapter; give it as model.name_or_path")
        if not Path(name).exists():
            return None
        open_artifact(name)  # has the words for what is there instead
        raise UserError(f"{KEY}: {name} is no adapter")
    if not Path(name).exists():
        commit = extract_commit_hash(str(file), None) or revision
        for each in (ADAPTER_WEIGHTS, FINGERPRINT, RECIPE, *PROCESSOR_FILES):
            find_file(name, each, commit)
    return file.parent


def _check_kind(name: str, settings: dict[str, Any]) -> None:
    """Raise UserError for an adapter that cannot be continued as it is."""
    if (init := settings.get("init_lora_weights", True)) not in INITS_BESIDE_BASE:
        raise UserError(
            f"{KEY}: {name} was made with init_lora_weights: {init!r}, which takes a part out of the base's weights: "
            "its matrices stand on what is left; convert it first (PEFT's save_pretrained with "
            "path_initial_model_for_weight_conversion writes an ordinary adapter)"
        )
    if settings.get("bias") not in (None, "none", "lora_only"):
        raise UserError(f"{KEY}: {name} trains the towers' biases too (bias: {settings['bias']!r}); take another one")
    if settings.get("lora_alpha", 8) <= 0:
        raise UserError(f"{KEY}: {name} has lora_alpha {settings['lora_alpha']}; it must be more than 0")


def _check_identity(name: str, artifact: Artifact, digests: list[str]) -> None:
    """Compare with what training left, where it left a fingerprint."""
    if (kept := artifact.fingerprint) is None:
        return
    for found, wanted, file in zip(
        digests, (kept.adapter, kept.settings), (ADAPTER_WEIGHTS, ADAPTER_CONFIG), strict=True
    ):
        if found != wanted:
            raise UserError(f"{KEY}: {file} of {name} is not as training saved it; restore it")
    if difference := difference_of_base(artifact, kept.base):
        raise UserError(
            f"{KEY}: {name} was trained on another base than model.name_or_path: {artifact.base} ({difference}); "
            "give the one that it was trained on"
        )


def _check_places(name: str, artifact: Artifact, settings: dict[str, Any]) -> frozenset[str]:
    """Compare names and shapes of the matrices with those that PEFT makes of the settings, on a model without memory.

    Returns the names of the adapted layers.
    """
    model = bare_model(artifact.config, token_ids_of(settings))
    check_patterns(f"{KEY}: {name}", settings, [module for module, _ in model.named_modules()])
    try:
        with safe_open(artifact.adapter_weights, framework="pt") as file:
            saved = {each: tuple(file.get_slice(each).get_shape()) for each in file.keys()}  # noqa: SIM118
    except SafetensorError as problem:
        raise UserError(f"{KEY}: {artifact.adapter_weights} is damaged: {one_line(problem)}") from problem
    try:
        config = PeftConfig.from_pretrained(artifact.name_or_path)
        config.base_model_name_or_path = None
        adapted = get_peft_model(model, config, low_cpu_mem_usage=True)
    except Exception as problem:  # whatever PEFT makes of a stranger's settings
        raise UserError(f"{KEY}: {name} does not fit {artifact.base}: {one_line(problem)}") from problem
    places = {
        each: tuple(value.shape)
        for each, value in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
    }
    if different := sorted(each for each in saved.keys() | places.keys() if saved.get(each) != places.get(each)):
        first = different[0]
        raise UserError(
            f"{KEY}: {name} does not fit {artifact.base}: {len(different)} of its matrices have no place or another "
            f"shape there, such as {first}: {saved.get(first)} instead of {places.get(first)}"
        )
    ends = (".lora_A.weight", ".lora_embedding_A")
    return frozenset(
        each.removesuffix(end).removeprefix("base_model.model.") for each in saved for end in ends if each.endswith(end)
    )
