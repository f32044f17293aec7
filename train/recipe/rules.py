"""Settings that are right one by one and impossible together."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from train.recipe.evaluated import measures
from train.recipe.recipe import Recipe
from train.recipe.recomputation import KEYS, KWARGS, SELECTIVE, settings_of
from train.recipe.training_keys import FIXED

# The keys that are judged together, as paths, and what to do. The first is the one the user is sent to.
Combination = tuple[tuple[tuple[str, ...], ...], str]


def impossible_combinations(recipe: Recipe) -> Iterator[Combination]:
    """Yield every impossible combination in a recipe whose single values may be trusted."""
    if recipe.lora is None or recipe.lora.start_from is None:
        yield from impossible_parts(recipe)  # else they are judged when the adapter is known
    yield from _rows(recipe)
    yield from _frames(recipe)
    yield from _sources(recipe)
    yield from _streaming(recipe)
    yield from _evaluation(recipe)
    yield from _fixed_arguments(recipe)
    yield from _how_layers_run(recipe)
    if recipe.resume not in ("auto", "never") and not os.path.isdir(os.path.expanduser(recipe.resume)):
        yield (
            _together("resume"),
            f"no such folder: {recipe.resume!r}; write auto, never or a checkpoint's folder",
        )


def impossible_parts(recipe: Recipe) -> Iterator[Combination]:
    """Yield the impossible combinations of what is trained and how."""
    yield from _what_is_trained(recipe)
    yield from _projector(recipe)


def _what_is_trained(recipe: Recipe) -> Iterator[Combination]:
    model, lora = recipe.model, recipe.lora
    saved = [] if lora is None else lora.modules_to_save
    if model.add_tokens and (whole := [name for name in saved if name in ("embed_tokens", "lm_head")]):
        yield (
            _together("model.add_tokens", "lora.modules_to_save"),
            f"trains the rows of its tokens by themselves; remove {whole[0]} from lora.modules_to_save",
        )
    if model.add_tokens and lora is None and not _trains_embeddings(model.trainable):
        yield (
            _together("model.add_tokens", "model.trainable"),
            f"trainable: {model.trainable} leaves their rows as they are; write all or decoder",
        )
    if lora is None and model.trainable is None:
        yield (
            _together("model.trainable", "lora"),
            "is needed with lora: null; write all, decoder, projector or a regular expression",
        )
    if lora is not None and model.trainable is not None:
        yield (
            _together("model.trainable", "lora"),
            f"{model.trainable!r} is for full fine-tuning; write lora: null or use lora.target instead",
        )
    if lora is None and model.quantization is not None:
        yield (
            _together("model.quantization", "lora"),
            f"{model.quantization} weights cannot be trained themselves; keep lora or remove quantization",
        )
    if lora is not None and lora.use_dora and model.quantization == "int8":
        yield (
            _together("lora.use_dora", "model.quantization"),
            "DoRA reads the scales of weights, and bitsandbytes' int8 layers move these as they compute; write nf4 or "
            "fp4, or remove use_dora",
        )
    if lora is not None and lora.start_revision is not None and lora.start_from is None:
        yield _together("lora.start_revision", "lora.start_from"), "is that of lora.start_from, which is not there"
    if lora is not None and lora.init_lora_weights == "orthogonal" and lora.r % 2:
        yield _together("lora.init_lora_weights", "lora.r"), f"orthogonal needs an even rank, not {lora.r}"


def _trains_embeddings(trainable: str | None) -> bool:
    """Tell whether embeddings and head are among what is trained in full."""
    names = ("model.language_model.embed_tokens.weight", "lm_head.weight")
    return trainable in (None, "all", "decoder") or (
        trainable != "projector" and all(re.search(trainable, name) for name in names)
    )


def _frames(recipe: Recipe) -> Iterator[Combination]:
    data = recipe.data
    if (data.frame_sampling == "fps") != (data.frames_per_second is not None):
        missing = data.frames_per_second is None
        yield (
            _together("data.frames_per_second", "data.frame_sampling"),
            f"is {'needed' if missing else 'only'} for frame_sampling: fps; {'write it' if missing else 'remove it'}",
        )
    for key in ("frame_cache", "feature_cache"):
        if getattr(data, key) is not None and data.frame_sampling == "jitter":
            yield (
                _together(f"data.{key}", "data.frame_sampling"),
                "jitter takes other frames in every epoch, so none is needed twice; write uniform or fps, or remove it",
            )
    if data.feature_cache is not None and recipe.lora is None:
        yield (
            _together("data.feature_cache", "lora"),
            "the towers are released, and full fine-tuning (lora: null) saves a whole model; train an adapter, or "
            "remove it",
        )
    if data.frame_cache_gib is not None and data.frame_cache is None:
        yield _together("data.frame_cache_gib", "data.frame_cache"), "is the size of data.frame_cache; add a folder"


def _sources(recipe: Recipe) -> Iterator[Combination]:
    if any(weight != 1 for weight in _weights(recipe.data.eval)):
        yield _together("data.eval"), "weight is for training, evaluation takes everything once; remove it"
    names = Counter(source["name"].casefold() for source in map(dict, recipe.data.eval) if source.get("name"))
    if twice := [name for name, number in names.items() if number > 1]:
        yield _together("data.eval"), f"name: {twice[0]!r} is the name of several sources; give each one of its own"
    if any(source.get("max_questions") and not source.get("metric") for source in map(dict, recipe.data.eval)):
        yield (
            _together("data.eval"),
            "max_questions is for answers, which need a metric; add metric: auto, or remove it",
        )


def _streaming(recipe: Recipe) -> Iterator[Combination]:
    if not recipe.data.streaming:
        return
    if recipe.training.get("max_steps", -1) <= 0:
        yield (
            _together("training.max_steps", "data.streaming"),
            "is needed with data.streaming, which does not know the length of an epoch; write how many steps to train",
        )
    if any(weight != 1 for weight in _weights(getattr(recipe.data, "train", []))):
        yield (
            _together("data.train", "data.streaming"),
            "a stream takes its sources as they are; remove weight, or data.streaming",
        )
    if recipe.data.feature_cache is not None:
        yield (
            _together("data.feature_cache", "data.streaming"),
            "is filled before training, from media that a stream does not know yet; use data.frame_cache",
        )
    for key in ("eval_strategy", "save_strategy", "logging_strategy"):
        if recipe.training.get(key) == "epoch":
            yield (
                _together(f"training.{key}", "data.streaming"),
                "a stream is one epoch without an end, for transformers; write steps",
            )


def _weights(sources: Iterable[Any]) -> list[float]:
    """Return the weights of sources that are still mappings, as in the file."""
    return [source.get("weight", 1) for source in sources]


def _projector(recipe: Recipe) -> Iterator[Combination]:
    model, lora = recipe.model, recipe.lora
    saved = lora is not None and any("projector" in name for name in lora.modules_to_save)
    if saved and lora.target == "decoder+projector":
        yield (
            _together("lora.modules_to_save", "lora.target"),
            "target: decoder+projector adapts the projector already; write target: decoder to train it whole",
        )
    frozen = model.trainable == "decoder" if lora is None else lora.target == "decoder" and not saved
    if model.projector_learning_rate is not None and frozen:
        yield (
            _together(
                "model.projector_learning_rate",
                "model.trainable",
                "lora",
                "lora.target",
                "lora.modules_to_save",
            ),
            "no projector is trained; add lora.modules_to_save: [multi_modal_projector] or remove it",
        )


def _rows(recipe: Recipe) -> Iterator[Combination]:
    data, batch_size = recipe.data, recipe.training["per_device_train_batch_size"]
    packed = data.packing == "shared_prefix"
    if packed and data.max_tokens_per_row < data.max_length:
        yield (
            _together("data.max_tokens_per_row", "data.max_length", "data.packing"),
            f"a row of {data.max_tokens_per_row} tokens cannot hold a conversation of data.max_length: "
            f"{data.max_length}; raise it or lower data.max_length",
        )
    if packed and batch_size > 1:
        yield (
            _together("training.per_device_train_batch_size", "data.packing"),
            f"a packed row is a batch, so it is 1, not {batch_size}; size rows by data.max_tokens_per_row",
        )
    if packed and recipe.training["per_device_eval_batch_size"] > 1:
        yield (
            _together("training.per_device_eval_batch_size", "data.packing"),
            "a packed row is a whole batch, so it is 1; size rows by data.max_tokens_per_row",
        )
    if packed and recipe.model.attn_implementation not in ("auto", "sdpa", "flash"):
        yield (
            _together("model.attn_implementation", "data.packing"),
            f"{recipe.model.attn_implementation} does not know packed rows; write auto, or data.packing: none",
        )


def _evaluation(recipe: Recipe) -> Iterator[Combination]:
    if recipe.early_stopping_patience and not recipe.training.get("load_best_model_at_end"):
        yield (
            _together("early_stopping_patience", "training.load_best_model_at_end"),
            "needs training.load_best_model_at_end: true, or the last and not the best model would be the result",
        )
    settings = {"eval_strategy": "no", "metric_for_best_model": None}
    missing = [f"training.{key}" for key, off in settings.items() if recipe.training.get(key, off) == off]
    if recipe.training.get("save_strategy") == "best" and missing:
        yield (
            _together("training.save_strategy", *missing),
            f"best needs evaluations to compare; write {' and '.join(missing)}, or save_strategy: steps",
        )
    if recipe.data.eval:
        return
    for key, off in (("eval_strategy", "no"), ("eval_on_start", False), ("load_best_model_at_end", False)):
        if recipe.training.get(key, off) != off:
            yield (
                _together(f"training.{key}", "data.eval"),
                f"there is nothing to evaluate on; add data.eval or remove {key}",
            )


def _fixed_arguments(recipe: Recipe) -> Iterator[Combination]:
    for key, (value, reason) in FIXED.items():
        if recipe.training.get(key, value) != value:
            shown = "is left out" if value is None else f"stays {json.dumps(value)}"
            yield _together(f"training.{key}"), f"{shown}: {reason}"
    metric = recipe.training.get("metric_for_best_model")
    if metric is not None:
        yield from _measured(metric.removeprefix("eval_"), [dict(source) for source in recipe.data.eval])


def _how_layers_run(recipe: Recipe) -> Iterator[Combination]:
    keys = [key for key in KEYS if recipe.training.get(key) is not None]
    if recipe.memory == "auto" and keys:
        yield (
            _together("memory", *(f"training.{key}" for key in keys)),
            f"auto chooses training.{keys[0]} itself; remove one of the two",
        )
    if recipe.recomputation == SELECTIVE and settings_of(recipe.training).get("use_reentrant"):
        yield (
            _together(f"training.{keys[0]}", f"training.{keys[0]}_kwargs"),
            "selective needs torch's newer checkpointing; remove use_reentrant",
        )
    preserves = settings_of(recipe.training).get("preserve_rng_state", True)
    if not preserves and recipe.lora is not None and recipe.lora.dropout:
        key = next(key for key in KWARGS if recipe.training.get(key))
        yield (
            _together(f"training.{key}", "lora", "lora.dropout"),
            "without preserve_rng_state layers that are computed again draw another dropout, and gradients are wrong; "
            "remove it, or write lora.dropout: 0.0",
        )
    if recipe.training.get("use_liger_kernel") and recipe.training.get("torch_compile"):
        yield (
            _together("training.use_liger_kernel", "training.torch_compile"),
            "compiled layers have kernels of their own for all of Liger's; remove one of the two",
        )


def _measured(metric: str, sources: list[dict[str, Any]]) -> Iterator[Combination]:
    """Refuse a measure that no evaluation of these sources gives."""
    known = measures(sources)
    if metric in known:
        return
    with_answers = measures([{"metric": "auto", **source} for source in sources] or [{"metric": "auto"}])
    if metric in with_answers:
        advice = "accuracy needs answers: add metric: auto to a source in data.eval, or write loss"
    elif nearest := get_close_matches(metric, known, n=1):
        advice = f"did you mean {nearest[0]!r}?"
    else:
        advice = f"write {' or '.join(known)}, or remove it"
    yield (
        _together("training.metric_for_best_model", "data.eval"),
        f"an evaluation gives no {metric!r}; {advice}",
    )


def _together(*paths: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(path.split(".")) for path in paths)
